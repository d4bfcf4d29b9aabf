"""The study: which commands it runs in which order, what it skips, and the numbers of its table."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_run

from configs.sci_study import full
from train import studies, study, tasks
from train.calibrated import calibrated
from train.config import load
from train.pool_scores import read
from train.study import Arm, StudyConfig
from train.study_lists import write_list_files
from train.study_numbers import (
    FUSION,
    REWARD,
    STAGE1,
    Found,
    StudyError,
    collect,
    draw,
    estimate,
    fusion_share,
    hits_of,
    row_of,
)
from train.study_scale import as_json, markdown, scales
from unirank_jax.datasets.dataset import open_source
from unirank_jax.datasets.formats.writing import write_lines
from unirank_jax.datasets.overlay import write_lists

CONFIG = replace(
    full(),
    own=False,
    source="data",
    stage1="first",
    rates=(1e-4, 1e-3),
    seeds=3,
    members=2,
    resamples=2000,
    arms={"continued": Arm("sft", (), True), "aligned": Arm("align", (), False)},
)


TEST = "--split test"
PER_CANDIDATE = ("dids", "grades", "neg_types")
SETTINGS = [f"configs/settings_study.py:{name}" for name in ("noisy", "unlabelled", "top", "hard")]


STUDIES = ("configs/sci_study.py", "configs/design_study.py", "configs/ablations_study.py")


@pytest.mark.parametrize("name", [*STUDIES, *SETTINGS])
def test_every_command_is_one_that_can_run(tmp_path: Path, name: str) -> None:
    """The settings of each configuration are known and of the right type."""
    config = load(name)
    study.check(replace(config, stage1="x"))
    tasks = study.preparation(replace(config, stage1="x"), tmp_path)
    for arm in config.arms:
        tasks += [training for training, _ in study.sweep(config, arm, tmp_path)]
    assert len({task.done for task in tasks}) == len(tasks)
    for task in tasks:
        argv = list(task.argv)
        loaded = load(argv[argv.index("--config") + 1], argv[argv.index("--set") + 1 :])
        assert argv[0] in ("train.mine", "train.reward", "train.sft", "train.align")
        if argv[0] in ("train.sft", "train.align"):
            assert loaded.schedule.steps == config.steps and loaded.batch.lists in (16, 32)


def fake(ran: list[str], fail: str = "") -> Any:
    """Stands for the commands: writes what the study reads of them."""

    def run(
        argv: list[str], env: dict[str, str], pass_fds: tuple[int]
    ) -> subprocess.CompletedProcess[str]:
        command = argv[2]
        assert env["JAX_COMPILATION_CACHE_DIR"].endswith("programs"), "compiled once for all"
        ran.append(" ".join(argv[2:]))
        if fail and fail in ran[-1]:
            return subprocess.CompletedProcess(argv, 1)
        if command in ("train.sft", "train.align"):
            folder = Path(argv[argv.index("--workdir") + 1])
            folder.mkdir(parents=True)
            value = 0.7 if "optimizer.lr=0.001" in argv else 0.4
            lines = [{"step": 0, "kind": "valid", "hit@1": 0.9}]
            lines += [{"step": 125, "kind": "valid", "hit@1": value}]
            text = "".join(json.dumps(one) + "\n" for one in lines)
            (folder / "metrics.jsonl").write_text(text)
        if command == "train.retrieve":
            folder = Path(argv[argv.index("--out") + 1])
            folder.mkdir(parents=True)
            (folder / "top100-0.jsonl.gz").touch()
            (folder / "top100-0.first-stage.jsonl.gz").touch()
        if command == "train.evaluate":
            name = argv[argv.index("--model") + 1].partition("=")[0]
            scores = {name: 1.0 if "aligned" in name else 0.0}
            baselines = {"BM25": 0.5, "first stage": 0.25} if "--dual-encoder" in argv else {}
            write(Path(argv[argv.index("--out") + 1]), scores | baselines)
        return subprocess.CompletedProcess(argv, 0)

    return run


def write(folder: Path, scorers: dict[str, float], queries: int = 40) -> None:
    """Lists of three candidates; a scorer's number is the share of queries it gets right."""
    folder.mkdir(parents=True)
    with open(folder / "queries.jsonl", "w") as file:
        for n in range(queries):
            record = {
                "qid": str(n),
                "grades": [1, 0, 0],
                "rel_min": 1,
                "kind": "ab"[n % 2],
                "modalities": ["text", "image", "text"],
                "missing": [],
                "scores": {
                    name: [float(n < share * queries), 0.5, 0.1] for name, share in scorers.items()
                },
            }
            file.write(json.dumps(record) + "\n")


def test_a_study_runs_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    monkeypatch.setattr(tasks.subprocess, "run", fake(ran, fail="seed=2"))
    with pytest.raises(StudyError, match="(?s)seed 2 ended with .* 1.*the same study again"):
        study.run(CONFIG, tmp_path)
    before = len(ran)
    monkeypatch.setattr(tasks.subprocess, "run", fake(ran))
    study.run(CONFIG, tmp_path)
    again = ran[before:]
    assert sum("train.sft" in one for one in ran) == 2 + 2 + 1, "a sweep, two seeds, one failed"
    assert sum("train.align" in one for one in ran) == 2 + 1, "two seeds: it carries no claim"
    assert "seed=2" in again[0] and "optimizer.lr=0.001" in again[0], "the better rate"
    order = [one.split()[0] for one in ran]
    test = next(
        n for n, one in enumerate(ran) if "=" + str(tmp_path / "runs") in one and TEST in one
    )
    assert not [one for one in ran[test:] if "seed=0" in one], "opened when the rates are chosen"
    trained = [n for n, one in enumerate(ran) if "seed=1" in one or "seed=2" in one]
    assert all(order[n + 1] == "train.evaluate" for n in trained if n + 1 != before), "scored then"
    table = json.loads((tmp_path / "table.json").read_text())
    rows = table["top100"]["rows"]
    assert rows["aligned"]["mean"] == 1.0 and rows["continued"]["mean"] == 0.0
    assert table["lists20"]["seeds"] == {**dict.fromkeys(rows, 1), "continued": 3, "aligned": 2}
    assert table["lists20"]["less continued"]["aligned"]["low"] == 1.0
    assert "| aligned | 2 | 100.0 [100.0, 100.0] |" in (tmp_path / "table.md").read_text()
    assert table["lists20"]["strongest outside"] == "BM25"
    assert table["lists20"]["less BM25"]["aligned"]["mean"] == 0.5
    assert table["lists20"]["relative to BM25"]["aligned"]["mean"] == 1.0, "twice as high"
    assert table["lists20"]["recall@1"]["aligned"]["mean"] == 1.0
    finished = len(ran)
    study.run(CONFIG, tmp_path)
    assert len(ran) == finished, "nothing is left to do"
    with pytest.raises(study.ConfigError, match="seeds: 3 -> 2"):
        study.run(replace(CONFIG, seeds=2), tmp_path)


def test_intervals_hold_queries_and_seeds(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    kinds = ["a"] * 300 + ["b"] * 100
    alike = np.repeat((random.random(400) < 0.5).astype(float)[None], 3, axis=0)
    apart = np.stack([(random.random(400) < p).astype(float) for p in (0.3, 0.5, 0.7)])
    drawn = draw({"alike": alike, "apart": apart, "one": alike[:1]}, kinds, 4000)
    for name in ("alike", "apart"):
        found = estimate(drawn, name, None)
        rows = alike if name == "alike" else apart
        macro = 0.5 * rows[:, :300].mean() + 0.5 * rows[:, 300:].mean()
        assert found.mean == pytest.approx(macro) and found.low < macro < found.high
    width = {n: estimate(drawn, n, None).high - estimate(drawn, n, None).low for n in drawn.means}
    # a binomial of two kinds: sqrt(.25/300 + .25/100) / 2, times 2 * 1.96
    assert width["one"] == pytest.approx(2 * 1.96 * 0.0289, rel=0.1)
    assert width["apart"] > 2 * width["alike"], "seeds that differ"
    same = estimate(drawn, "alike", "one")
    assert same.mean == same.low == same.high == 0.0 and same.p == 1.0


def test_the_fusion_is_tuned_on_the_validation_split(tmp_path: Path) -> None:
    write(tmp_path / "a", {STAGE1: 0.5})
    write(tmp_path / "b", {REWARD: 1.0})
    found = collect(tmp_path)
    share = fusion_share(found)
    rows = hits_of(found, (), share)
    assert share > 0 and rows[FUSION].mean() == 1.0 and rows[STAGE1].mean() == 0.5
    write(tmp_path / "c", {"other": 0.5}, queries=39)
    with pytest.raises(StudyError, match="not the lists of the others"):
        collect(tmp_path)


def test_only_some_lists_have_labels_and_another_study_mined_them(tmp_path: Path) -> None:
    mined = tmp_path / "other" / "mine-train"
    mined.mkdir(parents=True)
    lists = [{"qid": str(n), "dids": ["a"], "grades": [1]} for n in range(50)]
    write_lines(mined / "mined.jsonl.gz", (json.dumps(one) + "\n" for one in lists))
    config = replace(CONFIG, mined=str(tmp_path / "other"), labelled=10, first_seed=7)
    (reward,) = study.preparation(config, tmp_path)
    write_list_files(config, tmp_path)
    chosen = list(read(tmp_path / "mined-labelled.jsonl.gz"))
    assert chosen == lists[::5]
    seen = f"data.lists={tmp_path / 'mined-labelled.jsonl.gz'}"
    everything = f"lists={mined / 'mined.jsonl.gz'}"
    assert seen in reward.argv and f"scored_{everything}" in reward.argv
    continued, aligned = (study.sweep(config, arm, tmp_path)[0][0].argv for arm in config.arms)
    assert seen in continued and f"data.{everything}" in aligned
    assert "seed=7" in continued and "seed=7" in aligned
    with pytest.raises(study.ConfigError, match="mine_changes: the mining of another study"):
        study.check(replace(config, mine_changes=("limit=3",)))


def test_the_datasets_own_candidates_join_what_was_mined(tmp_path: Path) -> None:
    data = tiny_run.dataset_folder(tmp_path / "data", lists=6)
    whole = open_source(str(data)).lists("train")[:2]
    mined = tmp_path / "mine-train"
    mined.mkdir()
    best = [sorted(range(len(one.dids)), key=lambda n: -one.grades[n])[:3] for one in whole]
    cut = [
        replace(one, **{name: tuple(getattr(one, name)[n] for n in some) for name in PER_CANDIDATE})
        for one, some in zip(whole, best, strict=True)
    ]
    write_lists(mined / "mined.jsonl.gz", cut)
    config = replace(CONFIG, source=str(data), own=True, labelled=1)
    write_list_files(config, tmp_path)
    joined = list(read(tmp_path / "joined.jsonl.gz"))
    for one, list_of_the_data, mined_list in zip(joined, whole, cut, strict=True):
        assert tuple(one["dids"][:3]) == mined_list.dids and len(list_of_the_data.dids) > 3
        grades = dict(zip(one["dids"], one["grades"], strict=True))
        assert grades == dict(zip(list_of_the_data.dids, list_of_the_data.grades, strict=True))
    assert list(read(tmp_path / "joined-labelled.jsonl.gz")) == joined[:1]
    *_, reward = study.preparation(config, tmp_path)
    assert f"data.lists={tmp_path / 'mined-labelled.jsonl.gz'}" in reward.argv, "has the pairs"
    assert f"scored_lists={tmp_path / 'joined.jsonl.gz'}" in reward.argv
    continued, aligned = (study.sweep(config, arm, tmp_path)[0][0].argv for arm in config.arms)
    assert f"data.lists={tmp_path / 'joined-labelled.jsonl.gz'}" in continued
    assert f"data.lists={tmp_path / 'joined.jsonl.gz'}" in aligned


def test_a_study_may_be_judged_on_the_validation_split(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[str] = []
    monkeypatch.setattr(tasks.subprocess, "run", fake(ran))
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "programs")
    study.run(replace(CONFIG, judged_on="valid", first_seed=4), tmp_path)
    scored = [one for one in ran if one.startswith(("train.evaluate", "train.retrieve"))]
    assert scored and not [one for one in scored if "--split valid" not in one]
    marks = ("valid-top100", "scores/sweep", "train.retrieve")
    long = [one for one in scored if any(mark in one for mark in marks)]
    assert long and all(f"--limit {CONFIG.top100_lists}" in one for one in long)
    assert all(f"--limit {CONFIG.test_lists}" in one for one in scored if one not in long)
    assert "of the valid split" in (tmp_path / "table.md").read_text()
    assert {word for one in ran for word in one.split() if word.startswith("seed=")} == {
        "seed=4",
        "seed=5",
        "seed=6",
    }


def test_arms_of_several_studies_are_corrected_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tasks.subprocess, "run", fake([]))
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "programs")
    runs = [tmp_path / name for name in ("one", "two")]
    for run in runs:
        study.run(replace(CONFIG, name=f"study {run.name}"), run)
    alone = json.loads((runs[0] / "table.json").read_text())["lists20"]
    capsys.readouterr()
    out = tmp_path / "together.md"
    assert studies.main([*map(str, runs), "--out", str(out)]) == 0
    text = out.read_text()
    assert capsys.readouterr().out == text
    p = alone["less continued"]["aligned"]["p"]
    assert alone["holm"] == {"aligned": p}  # alone it needs no correction, of two the least doubles
    lines = [line for line in text.splitlines() if line.startswith("| study ")][1:]
    assert len(lines) == 2 and all(f"| {p:.3g} | {min(1, 2 * p):.3g} |" in one for one in lines)
    assert studies.main([str(tmp_path / "three")]) == 1
    assert "three: no finished study" in capsys.readouterr().err


def test_what_cannot_be_studied_is_told() -> None:
    bad: StudyConfig = replace(
        CONFIG, stage1="", rates=(), seeds=0, arms={"a b": Arm("sft", (), True)}
    )
    with pytest.raises(study.ConfigError) as told:
        study.check(bad)
    for name in ("stage1", "rates", "seeds", "no space"):
        assert name in str(told.value)


def test_the_scale_of_every_row(tmp_path: Path) -> None:
    """Scores that are true log-odds, and the same with a liking for images."""
    random = np.random.default_rng(0)
    truth = random.normal(0, 2, (400, 4))
    grades = (random.random((400, 4)) < 1 / (1 + np.exp(-truth))).astype(int)
    liking = np.array([0.0, 2.0, 0.0, 2.0])
    for name, scores in (("arm 0", truth), ("arm 1", truth + liking), ("other", 3 * truth)):
        (tmp_path / name).mkdir()
        with open(tmp_path / name / "queries.jsonl", "w") as file:
            for n in range(400):
                record = {"qid": str(n), "grades": grades[n].tolist(), "rel_min": 1, "kind": "a"}
                record |= {"modalities": ["text", "image"] * 2, "missing": []}
                file.write(json.dumps(record | {"scores": {name: scores[n].tolist()}}) + "\n")
    found = scales(collect(tmp_path), ("arm", "other"), ("arm",))
    fair, fond = zip(found["arm"].share_excess, found["arm"].shift, strict=True)
    assert abs(fair[0]) < 0.05 and abs(fair[1]) < 0.3
    assert fond[0] > 0.15 and fond[1] < -1.5, "the modality takes back what the score gave"
    assert max(found["arm"].raw[0], found["other"].fitted[0]) < 0.05 < 0.09 < found["other"].raw[0]
    after = calibrated(list(truth + liking), collect(tmp_path).lists).after
    assert found["arm"].apart[1] == pytest.approx(abs(after["image"].ece - after["text"].ece))
    assert found["other"].size[0] == pytest.approx(3 * np.abs(truth).mean())
    alone = scales(Found(collect(tmp_path).lists[:1], {"x": [truth[0]]}), ("x",), ())
    assert as_json(alone["x"])["raw"] == [None] and "nan" not in markdown(alone), "one list: no fit"
    assert "| arm |" in markdown(found) and row_of("arm 1 + Platt", ("arm",)) == "arm + Platt"

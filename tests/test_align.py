"""Stage 2 from mined lists to an export: rewards, the two-pass gradient, resuming, refusals."""

from __future__ import annotations

import gzip
import json
import signal
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_run

from train import align, data, loop, mine, reward
from train.align_step import make_policy_step, two_pass
from train.config import load as load_config
from train.contenders import exported
from train.initial import make_layout
from train.ranking import RankingObjective
from train.reward import accuracy, combined, refusals
from train.settings import LoRASettings
from train.signals import Signals
from train.sizes import SHARED
from train.step import abstract_state, learning_rate, make_optimizer, state_shardings
from train.temperature import CHOICES
from train.utility import utilities
from unirank_jax import sharding
from unirank_jax.batch import Bucket
from unirank_jax.config import preset
from unirank_jax.loading import load
from unirank_jax.packing import pack


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A dataset, a model, and what it mines of both splits."""
    folder = tmp_path_factory.mktemp("inputs")
    data = tiny_run.dataset_folder(folder / "data", lists=12)
    model = tiny_run.model_folder(folder / "model")
    for split in ("train", "valid"):
        settings = [f"source={data}", f"model={model}", f"dual_encoder={model}", "limit=0"]
        settings += [f"split={split}", "texts=4", "images=4", "mining.trivial=1e9"]
        settings += ["mining.relative_margin=-9", "mining.num_negatives=4"]
        arguments = ["--workdir", str(folder / split), "--set", *settings]
        assert mine.main(["--config", "configs/sci_mine.py", *arguments]) == 0
    return {"data": data, "model": model, "train": folder / "train", "valid": folder / "valid"}


def shared(inputs: dict[str, Path], **changes: object) -> list[str]:
    return tiny_run.settings(
        inputs["data"],
        inputs["model"],
        data__lists=inputs["train"] / "mined.jsonl.gz",
        data__preferences=inputs["train"] / "preferences.jsonl.gz",
        data__max_positives=1,
        batch__lists=8,
        evaluation__every_steps=0,
        **changes,
    )


def test_from_preferences_to_an_aligned_model(
    inputs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = shared(
        inputs,
        schedule__steps=6,
        members=2,
        accept=True,
        valid_lists=inputs["valid"] / "mined.jsonl.gz",
        valid_preferences=inputs["valid"] / "preferences.jsonl.gz",
    )
    command = ["--config", "configs/sci_reward.py", "--workdir", str(tmp_path / "reward"), "--set"]
    assert reward.main([*command, *settings]) == 0
    told = capsys.readouterr().out
    assert "of 2 models" in told and " preferences" in told
    found = json.loads((tmp_path / "reward" / "accuracy.json").read_text())
    assert {"all", "across"} <= found.keys() and 0 <= found["all"][0] <= 1
    rewards = tmp_path / "reward" / "rewards.jsonl.gz"
    with gzip.open(rewards, "rt") as lines:
        listed = {one["qid"]: one for one in map(json.loads, lines)}
    members = [
        json.loads(line)
        for n in range(2)
        for line in gzip.open(tmp_path / "reward" / f"member-{n}" / "rewards.jsonl.gz", "rt")
        if json.loads(line)["qid"] == next(iter(listed))
    ]
    values = np.array([one["rewards"] for one in members])
    assert not np.array_equal(values[0], values[1]), "another seed, another model"
    expected = values.mean(0) - 0.5 * values.std(0)
    np.testing.assert_allclose(next(iter(listed.values()))["rewards"], expected, rtol=1e-6)
    before = rewards.read_bytes()
    assert reward.main([*command, *settings]) == 0, "again: everything is there"
    assert rewards.read_bytes() == before

    settings = shared(inputs, schedule__steps=8, rewards=rewards, log__every_steps=1)
    command = ["--config", "configs/sci_align.py", "--set", *settings, "batch.accumulate=1"]
    capsys.readouterr()
    assert align.main([*command, "--workdir", str(tmp_path / "align")]) == 0
    assert "policy.temperature: " in capsys.readouterr().out
    series = [one for one in tiny_run.series(tmp_path / "align") if one["kind"] == "train"]
    names = {"objective", "bernoulli", "first", "bce", "entropy", "reward", "dead", "magnitude"}
    assert names <= series[0].keys() and len(series) == 8
    assert series[0]["bernoulli"] == pytest.approx(0.0, abs=1e-6), "it starts as stage 1"
    assert series[-1]["bernoulli"] > 1e-7, "and moves"
    assert "<svg" in (tmp_path / "align" / "diagnostics.html").read_text("utf-8")
    with exported(str(tmp_path / "align"), "last") as folder:
        scores = load(folder).logits("which one shows a square?", ["a red square", "no"])
    assert np.isfinite(scores).all()


def test_killed_and_resumed_it_is_the_same_run(inputs: dict[str, Path], tmp_path: Path) -> None:
    gold = ["policy.utility=gain", "policy.preference=0", "policy.hit=0.5", "batch.accumulate=1"]
    settings = [*shared(inputs, schedule__steps=9, log__every_steps=1), *gold]
    command = ["--config", "configs/sci_align.py", "--set", *settings, "--workdir"]
    assert align.main([*command, str(tmp_path / "whole")]) == 0
    parts = [*command, str(tmp_path / "parts")]
    due = loop._due

    def stopping(step: int, every: int) -> bool:
        if step == 4 and every == 3:
            signal.raise_signal(signal.SIGTERM)
        return due(step, every)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "_due", stopping)
        assert align.main(parts) == 143
    assert align.main(parts) == 0

    def losses(name: str) -> list[object]:
        lines = tiny_run.series(tmp_path / name)
        return [(one["step"], one["loss"]) for one in lines if one["kind"] == "train"]

    assert losses("parts") == losses("whole") and len(losses("whole")) == 9


def test_the_two_pass_gradient_is_that_of_the_whole() -> None:
    """A loss over all lists that does not split into micro-batches."""
    random = np.random.default_rng(0)
    batch = random.normal(size=(4, 1, 2, 5, 7))  # M, S, G, C, features
    params = {"w": random.normal(size=7), "v": random.normal(size=7)}

    def margins(params: dict, micro: jax.Array) -> jax.Array:
        return jnp.tanh(micro @ params["w"]) * (micro @ params["v"])

    def loss(logits: jax.Array) -> tuple[jax.Array, dict]:
        share = jax.nn.log_softmax(logits, axis=-1)
        value = (share * jnp.roll(share, 1, axis=0)).sum() / jnp.abs(logits).max()
        return value, {"n": (value, value)}

    def whole(params: dict) -> jax.Array:
        return loss(margins(params, batch).reshape(-1, 5))[0]

    with jax.enable_x64():
        expected, slope = jax.value_and_grad(whole)(params)
        for shape in (batch.shape, (1, 1, 8, 5, 7), (8, 1, 1, 5, 7)):
            some = jnp.asarray(batch.reshape(shape))
            value, parts, found = jax.jit(lambda p, b: two_pass(margins, loss, p, b))(params, some)
            assert float(value) == pytest.approx(float(expected), rel=1e-6)
            assert set(parts) == {"n"}
            for name in params:
                np.testing.assert_allclose(found[name], slope[name], rtol=1e-6, atol=1e-9)
        # each list one candidate at a time
        parts = jnp.moveaxis(jnp.asarray(batch), -2, 1).reshape(20, 1, 2, 1, 7)
        value, _, found = jax.jit(lambda p, b: two_pass(margins, loss, p, b, 5))(params, parts)
        assert float(value) == pytest.approx(float(expected), rel=1e-6)
        for name in params:
            np.testing.assert_allclose(found[name], slope[name], rtol=1e-6, atol=1e-9)


def test_micro_batches_give_the_same_run(inputs: dict[str, Path], tmp_path: Path) -> None:
    gold = ["policy.utility=gain", "policy.preference=0", "data.length_window=1"]
    found = {}
    for parts, chunks in ((1, 1), (2, 1), (1, 4)):
        settings = [*shared(inputs, schedule__steps=3, log__every_steps=1), *gold]
        settings += ["batch.lists=16", f"batch.accumulate={parts}", f"batch.chunks={chunks}"]
        settings += ["policy.temperature=2"]
        workdir = str(tmp_path / f"{parts}-{chunks}")
        command = ["--config", "configs/sci_align.py", "--set", *settings, "--workdir", workdir]
        assert align.main(command) == 0
        series = [one for one in tiny_run.series(Path(workdir)) if one["kind"] == "train"]
        found[parts, chunks] = [one["grad_norm"] for one in series]
    np.testing.assert_allclose(found[1, 1], found[2, 1], rtol=1e-4)
    np.testing.assert_allclose(found[1, 1], found[1, 4], rtol=1e-4)


def test_memory_does_not_grow_with_the_list(eight_devices: list[jax.Device]) -> None:
    """Bytes of temporaries of the compiled step, 8 candidates at a time, and all at once."""
    mesh = sharding.mesh(1, 1, 1, eight_devices[:1])
    model = preset("tiny")
    layout, _ = make_layout(model, LoRASettings(0, 0.0, ""), 0)
    places = layout.shardings(mesh)
    trained = {
        n: jax.ShapeDtypeStruct(v.shape, jnp.float32, sharding=places[n])
        for n, v in layout.variables.items()
    }

    def temporaries(candidates: int, chunks: int) -> int:
        size = candidates // chunks
        bucket = Bucket(1, 64, size, 96, size // 2, 256)
        changes = [f"batch.chunks={chunks}", "model.unroll=false"]
        base = load_config("configs/sci_align.py", changes)
        policy = replace(base.policy, temperature=2.0)
        optimizer = make_optimizer(base.optimizer, base.schedule)
        state_places = state_shardings(optimizer, trained, places, mesh)
        step = make_policy_step(
            RankingObjective(layout, (1, 2), base),
            policy,
            base.anchor,
            0,
            optimizer,
            learning_rate(base.optimizer, base.schedule),
            state_places,
            {},
            mesh,
        )
        each = np.zeros((1, 1, size), np.float32)
        preferences = np.zeros((1, 1, size, candidates), np.float32)
        signals = Signals(preferences, each, each, each.astype(np.int32))
        packed = pack(model, [], [], [], bucket)
        some = data.Micro(packed, data.empty_targets(1, size), signals)
        batch = jax.tree.map(lambda x: jax.ShapeDtypeStruct((chunks, *x.shape), x.dtype), some)
        state = abstract_state(optimizer, trained, state_places)
        compiled = step.jitted.lower(state, {}, batch).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    found = [temporaries(candidates, candidates // 8) for candidates in (8, 32, 128)]
    print(f"temporary bytes of lists of 8, 32 and 128 candidates: {found}")
    assert max(found) < 1.2 * min(found)
    assert temporaries(128, 1) > 2 * max(found)


def test_runs_share_the_logits_of_stage_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        folder.mkdir()
        (folder / "unirank.json").write_text(folder.name)

    def path(*changes: str, model: Path = first, data: str = "d" * 64) -> Path:
        settings = [f"model.init={model}", *changes]
        config = load_config("configs/sci_align.py", settings)
        return align.reference_path(config, tmp_path / "run", data)

    assert path() == tmp_path / "run" / "cache" / "reference-dddddddddddddddd.npy"
    monkeypatch.setenv(SHARED, str(tmp_path / "shared"))
    assert path().parent == tmp_path / "shared"
    assert path() == path("seed=3", "optimizer.lr=1", "policy.algorithm=dpo")
    others = [path("data.max_tokens=99"), path(model=second), path(data="e" * 64)]
    assert len({path(), *others}) == 4
    (first / "unirank.json").unlink()
    assert path().parent.name == "cache", "no exported folder"


def test_contradictions_are_refused(
    inputs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def failing(module: object, config: str, *changes: str) -> str:
        settings = [*shared(inputs, schedule__steps=1, schedule__warmup_steps=0), *changes]
        command = ["--config", config, "--workdir", str(tmp_path / "x"), "--set", *settings]
        assert module.main(command) == 1  # type: ignore[attr-defined]
        return capsys.readouterr().err

    told = failing(align, "configs/sci_align.py", "policy.samples=1", "policy.clip=0,0.2")
    assert "policy.samples" in told and "policy.clip" in told and "needs rewards" in told
    told = failing(align, "configs/sci_align.py:gold", "policy.algorithm=dpo", "data.preferences=")
    assert "policy.algorithm=dpo needs data.preferences" in told
    told = failing(align, "configs/sci_align.py:gold", "batch.accumulate=1", "batch.chunks=3")
    assert "data.list_size = 4 must be a multiple of batch.chunks = 3" in told
    told = failing(reward, "configs/sci_reward.py", "batch.chunks=2")
    assert "batch.chunks: this loss needs whole lists" in told
    told = failing(reward, "configs/sci_reward.py", "members=0", "valid_lists=x")
    assert "members must be at least 1" in told and "belong together" in told


def test_accuracy_by_type_and_the_rule() -> None:
    rewards = {"q": {"a": 2.0, "b": 1.0, "c": 1.0, "d": 3.0}}
    kinds = {
        ("q", "a", "b"): "text > text",
        ("q", "b", "c"): "text > image",
        ("q", "a", "d"): "image > text",
        ("q", "x", "a"): "text > text",
    }
    pairs = {"q": [(better, worse, 1.0) for _, better, worse in kinds]}
    found = accuracy(pairs, kinds, rewards)
    assert found == {
        "all": (0.5, 3),
        "within": (1.0, 1),
        "across": (0.25, 2),
        "text > text": (1.0, 1),
        "text > image": (0.5, 1),
        "image > text": (0.0, 1),
    }
    told = refusals(found)
    assert len(told) == 3 and any("75.0 points less right than within" in one for one in told)
    assert refusals({"within": (0.8, 9), "across": (0.75, 9), "text > image": (0.7, 9)}) == []
    cautious = combined([rewards, {"q": {"a": 0.0, "b": 1.0, "c": 1.0, "d": 3.0}}], 0.5)
    assert cautious["q"] == {"a": 0.5, "b": 1.0, "c": 1.0, "d": 3.0}


def test_utilities_lie_between_zero_and_one_on_one_scale() -> None:
    found = utilities({"a": {"x": 1.0, "y": -1.0}, "b": {"x": 103.0, "y": 97.0}, "c": {"x": 5.0}})
    spread = 2.0  # of 1 and 3
    assert found["a"]["x"] == pytest.approx(1 / (1 + np.exp(-1 / spread)))
    assert found["b"]["x"] == pytest.approx(1 / (1 + np.exp(-3 / spread)))
    assert found["c"]["x"] == 0.5 and found["a"]["y"] == pytest.approx(1 - found["a"]["x"])
    assert CHOICES == tuple(sorted(CHOICES))

"""A dataset in other forms: what is converted, what is left out, and training and scoring on it."""

from __future__ import annotations

import gzip
import json
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny_run
from PIL import Image

from train import evaluate
from train.config import ConfigError, from_dict, load, to_dict
from train.contenders import named
from train.forms import FormedExamples, Shown, cost, split_form
from train.inputs import open_data
from train.report import describe_run
from train.settings import TrainConfig
from unirank_jax.content import TextPart
from unirank_jax.datasets import stand_ins
from unirank_jax.datasets.dataset import Dataset, DatasetError
from unirank_jax.datasets.forms import FormDataset, in_form
from unirank_jax.datasets.overlay import write_lists
from unirank_jax.datasets.records import ContentSize, Item, RankList
from unirank_jax.images import ImageSpec
from unirank_jax.prompt import Prompt
from unirank_jax.tokenizer import Tokenizer

SPEC = ImageSpec(4, 2, 1, 40)
TEXTS = {"drawing": "a drawing", "both": "a drawing"}
CANDIDATES = {
    "drawing": {"image": "red.png"},
    "card": {"text": "a red circle"},
    "both": [{"image": "red.png"}, "with a text"],
    "other": {"image": "blue.png"},
    "foreign": {"text": "赤い円"},
}


def line(qid: str, *names: str) -> dict[str, object]:
    contents = {name: CANDIDATES[name] for name in names}
    candidates = [
        {"did": name, "grade": int(not place), **({"parts": c} if isinstance(c, list) else c)}
        for place, (name, c) in enumerate(contents.items())
    ]
    return {"qid": qid, "query": {"text": "which?"}, "candidates": candidates}


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    """Four lists: two whole in every form, one without a stand-in, one that cannot be drawn."""
    for colour in ("red", "blue"):
        Image.new("RGB", (16, 24), colour).save(tmp_path / f"{colour}.png")
    lines = [
        line("a", "drawing", "card", "both"),
        line("b", "card", "drawing"),
        line("c", "drawing", "other"),
        line("d", "card", "foreign"),
    ]
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines))
    stand_ins.write(tmp_path, TEXTS)
    return Dataset.open(tmp_path)


OTHER_LISTS = [
    RankList("b", ("both", "drawing"), (0, 1), ("", "positive"), (1,)),
    RankList("a", ("drawing", "other"), (1, 0), ("positive", "")),
    RankList("d", ("card", "drawing"), (1, 0), ("positive", "")),
]


def prompt_of(spec: ImageSpec) -> Prompt:
    return Prompt(Tokenizer.from_file(tiny_run.TOKENIZER), "unirank-native-1", spec, 320, 48)


def test_native_is_the_dataset_itself(dataset):
    assert in_form(dataset, "native", SPEC) is dataset


def test_texts_become_pictures_and_queries_stay(dataset):
    view = in_form(dataset, "image", SPEC)
    example = view.example("test", 0)
    original = dataset.example("test", 0)
    assert example.query == original.query and example.grades == original.grades
    drawing, card, both = example.candidates
    assert drawing == original.candidates[0], "an image stays as it is"
    assert [item.modality for item in example.candidates] == ["image", "text", "mixed"]
    (picture,) = card.parts
    assert isinstance(picture.source, Image.Image) and picture.source.width % 8 == 0
    (picture,) = both.parts
    pixels = np.asarray(picture.source)
    assert (pixels[:24, :16] == (255, 0, 0)).all(), "the image is above its text"
    assert pixels[24:].min() < 128


def test_stand_ins_take_the_place_of_images_and_modalities_stay(dataset):
    view = in_form(dataset, "text", SPEC)
    drawing, card, both = view.example("test", 0).candidates
    assert drawing.parts == (TextPart("a drawing"),) and drawing.modality == "image"
    assert card == dataset.item("card")
    assert both.parts == (TextPart("a drawing\nwith a text"),) and both.modality == "mixed"
    assert [item.did for item in view.items_of("test")] == ["drawing", "card", "both", "foreign"]


@pytest.mark.parametrize(("form", "lost", "why"), [("image", "d", "font"), ("text", "c", "no st")])
def test_lists_that_do_not_exist_in_a_form_are_left_out_and_counted(dataset, form, lost, why):
    view = in_form(dataset, form, SPEC)
    assert [one.qid for one in view.lists("test")] == [q for q in "abcd" if q != lost]
    assert [view.example("test", i).query.qid for i in range(3)] == [q for q in "abcd" if q != lost]
    assert view.left_out("test") == 1
    missing = {"d": "foreign", "c": "other"}[lost]
    with pytest.raises(DatasetError, match=f"item {missing}: cannot be shown as {form}, .*{why}"):
        view.item(missing)


def test_lists_that_are_compared_exist_in_every_form(dataset):
    view = FormDataset(dataset, "native", within=("image", "text"))
    assert [one.qid for one in view.lists("test")] == ["a", "b"] and view.left_out("test") == 2
    assert view.item("drawing") == dataset.item("drawing")
    assert len(view.items_of("test")) == 5


def test_lists_of_a_file_are_shown_in_a_form(dataset, tmp_path):
    write_lists(tmp_path / "x.jsonl", OTHER_LISTS)
    config = load(str(tiny_run.ROOT / "configs" / "sci.py"))
    other = {"source": str(dataset.path), "lists": str(tmp_path / "x.jsonl"), "form": "text"}
    settings = replace(config.data, train_split="test", **other)
    view = pickle.loads(pickle.dumps(open_data(settings, SPEC)))
    assert [one.qid for one in view.lists("test")] == ["b", "d"] and view.left_out("test") == 1
    example = view.example("test", 0)
    assert [item.did for item in example.candidates] == ["both", "drawing"]
    assert example.candidates[1].parts == (TextPart("a drawing"),) and example.missing == (1,)
    assert view.fingerprint != in_form(dataset, "text", SPEC).fingerprint


def test_pool_and_sizes_are_those_of_what_is_shown(dataset, monkeypatch):
    native = FormDataset(dataset, "native", within=("image", "text"))
    assert native.size("both") == dataset.size("both") == ContentSize(11, ((24, 16),))
    view = in_form(dataset, "image", SPEC)
    (picture,) = view.item("both").parts
    assert view.size("both") == ContentSize(0, (picture.source.size[::-1],))
    corpus = ("other", "foreign", "card")  # as of data with one corpus for all splits
    monkeypatch.setattr(type(dataset), "pool", lambda self, split: corpus)
    assert native.pool("test") == corpus
    assert in_form(dataset, "image", SPEC).pool("test") == ("other", "card")
    assert in_form(dataset, "text", SPEC).pool("test") == ("foreign", "card")


def test_nothing_left_is_an_error(dataset):
    stand_ins.write(dataset.path, {"elsewhere": "x"})
    (dataset.path / "test.jsonl").write_text(json.dumps(line("a", "drawing", "card")) + "\n")
    view = in_form(Dataset.open(dataset.path), "text", SPEC)
    with pytest.raises(DatasetError, match="in every list of split 'test'"):
        view.lists("test")


def test_the_fingerprint_depends_on_form_budget_and_stand_ins(dataset):
    views = [
        dataset,
        in_form(dataset, "image", SPEC),
        in_form(dataset, "image", ImageSpec(4, 2, 1, 30)),
        in_form(dataset, "text", SPEC),
        FormDataset(dataset, "native", within=("text",)),
    ]
    prints = [view.fingerprint for view in views]
    assert len(set(prints)) == len(prints)
    copies = [pickle.loads(pickle.dumps(view)) for view in views[1:]]
    assert [copy.fingerprint for copy in copies] == prints[1:]
    stand_ins.write(dataset.path, {**TEXTS, "both": "something else"})
    assert in_form(dataset, "text", SPEC).fingerprint not in prints


def test_stand_ins_that_cannot_be_used_are_told(dataset):
    path = dataset.path / stand_ins.FILE
    assert stand_ins.read(dataset) == TEXTS
    first = path.read_bytes()
    stand_ins.write(dataset.path, dict(reversed(TEXTS.items())))
    assert path.read_bytes() == first, "the order of ids is that of the file"
    for data in (b"no archive", gzip.compress(b"no json"), gzip.compress(b'{"did": "x"}\n')):
        path.write_bytes(data)
        with pytest.raises(DatasetError, match="cannot be read .*; build them again"):
            in_form(dataset, "text", SPEC)
    path.unlink()
    with pytest.raises(DatasetError, match="missing, so images have no text .*of your own write"):
        in_form(dataset, "text", SPEC)


# ---------------------------------------------------------------- models and forms


def test_a_form_ends_the_path():
    assert split_form("runs/b:image") == ("runs/b", "image")
    assert split_form("runs/b:native") == ("runs/b", "native")
    assert split_form("runs/b") == ("runs/b", None)
    assert split_form("C:/models/x") == ("C:/models/x", None)
    assert split_form(":image") == (":image", None)


def test_examples_are_converted_when_they_are_read_and_cost_what_is_scored(dataset):
    prompt = prompt_of(SPEC)
    shown = Shown(dataset, {"native": "native", "image": "image", "text": "text"})
    examples = [shown.dataset.example("test", i) for i in range(2)]
    for form in ("native", "image", "text"):
        seen = shown.to(form, examples, prompt)
        assert isinstance(seen, FormedExamples) and len(seen) == 2
        tokens, images, prefixes = [], [], []
        for example in seen[:2]:
            prefix = prompt.prefix(example.query.parts, example.query.instruction)
            prefixes.append(len(prefix.tokens))
            for item in example.candidates:
                encoded = prompt.candidate(item.parts, item.did, len(prefix.tokens))
                visual = sum(image.grid[0] * image.grid[1] // 4 for image in encoded.images)
                tokens.append(len(encoded.tokens) - visual)
                images.append(visual)
        found = shown.costs[form]
        assert found.lists == 2 and found.prefix == np.mean(prefixes)
        assert found.groups["all"] == {
            "candidates": 5,
            "text": np.mean(tokens),
            "visual": np.mean(images),
        }
        assert (found.groups["text"]["visual"] > 0) == (form == "image")
        assert (found.groups["image"]["visual"] > 0) == (form != "text")
        assert found.groups["text < 50"] == found.groups["text"]
    about = shown.about("test")
    assert about["lists_left_out"] == 2 and list(about["tokens"]) == ["native", "image", "text"]


def test_the_command_compares_forms_and_runs_on_lists_of_a_file(
    dataset, tmp_path, monkeypatch, capsys
):
    """Everybody is judged on the same lists of the file; only models see other forms."""
    seen: dict[str, list[Item]] = {}

    def fake(name, path, step, on_error, shown):
        def score(examples):
            made = list(shown.to(name, examples, prompt_of(SPEC)))
            seen[name] = [item for example in made for item in example.candidates]
            return [np.arange(len(example.candidates), dtype=np.float32) for example in made]

        return score

    monkeypatch.setattr(evaluate, "model_scorer", fake)
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.json").write_text("{}")
    write_lists(tmp_path / "x.jsonl", OTHER_LISTS)
    (tmp_path / "r.trec").write_text("b Q0 drawing 1 2.0 r\nd Q0 card 1 2.0 r\n")
    common = ["--data", str(dataset.path), "--out", str(tmp_path / "out"), "--resamples", "20"]
    common += ["--lists", str(tmp_path / "x.jsonl"), "--run", str(tmp_path / "r.trec")]
    model = str(tmp_path / "m")
    evaluate.main([*common, "--model", model, f"words={model}:text"])
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["models"] == ["r", "m", "words"] and report["runs"] == ["r"]
    assert report["about"]["notes"][:3] == [
        "Lists: those of x.jsonl.",
        "1 of 3 lists are left out for all: a candidate does not exist in a form that some model "
        "needs.",
        "Run r holds 2 of the 2 queries and 2 of their 4 candidates; what it does not hold ranks "
        "last.",
    ]
    assert [item.did for item in seen["m"]] == ["both", "drawing", "card", "drawing"]
    assert seen["m"] == [dataset.item(item.did) for item in seen["m"]]
    assert [item.did for item in seen["words"]] == [item.did for item in seen["m"]]
    assert all(isinstance(part, TextPart) for item in seen["words"] for part in item.parts)
    page = (tmp_path / "out" / "report.html").read_text()
    assert "1 of 3 lists are left out" in page and "tokens per candidate" in page
    assert "words (text)" in capsys.readouterr().out

    evaluate.main([*common, "--mixed", "1"])
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["models"] == ["r"] and report["about"]["tokens"] == {}
    assert report["about"]["queries"] == 3, "a run needs no form"


def test_models_are_named_by_path_without_their_form(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
    a, b = str(tmp_path / "a"), str(tmp_path / "b")
    assert named([f"{a}:image", f"x={a}:text", b]) == (
        {"a": a, "x": a, "b": b},
        {"a": "image", "x": "text", "b": "native"},
    )
    assert named([]) == ({"default": None}, {"default": "native"})
    assert named([], default=False) == ({}, {})
    with pytest.raises(ConfigError, match="the name 'a' is taken; write NAME="):
        named([f"{a}:image", f"{a}:text"])


def test_costs_are_taken_from_lists_all_over_the_split(dataset):
    examples = [dataset.example("test", i) for i in (0, 1, 1, 2)]
    found = cost(examples, examples, prompt_of(SPEC), limit=2)
    assert found.lists == 2 and found.groups["all"]["candidates"] == 5


def test_runs_older_than_the_field_are_native(tmp_path):
    config = load(str(tiny_run.ROOT / "configs" / "sci.py"))
    old = to_dict(config)
    del old["data"]["form"]
    assert from_dict(TrainConfig, old) == config
    (tmp_path / "config.json").write_text(json.dumps({"config": old}))
    describe_run(tmp_path, config, resuming=True)
    (tmp_path / "config.json").write_text(json.dumps({"config": old}))
    changed = load(str(tiny_run.ROOT / "configs" / "sci.py"), ["data.form=image"])
    with pytest.raises(ValueError, match="data.form: 'native' -> 'image'"):
        describe_run(tmp_path, changed, resuming=True)


def test_the_three_forms_train_equally_long_on_the_same_lists():
    native, image, text = (
        load(str(tiny_run.ROOT / "configs" / f"sci.py:{name}"))
        for name in ("open_lists", "as_image", "as_text")
    )
    assert (native.data.form, image.data.form, text.data.form) == ("native", "image", "text")
    for one in (image, text):
        for part in ("batch", "loss", "optimizer", "schedule", "evaluation", "seed"):
            assert getattr(one, part) == getattr(native, part)
        same = ("source", "list_size", "max_positives", "min_other_modality", "kind_power")
        assert all(getattr(one.data, name) == getattr(native.data, name) for name in same)


def test_training_evaluation_and_timing_in_each_form(tmp_path, capsys):
    data, model = tiny_run.dataset_folder(tmp_path / "d"), tiny_run.model_folder(tmp_path / "m")
    opened = Dataset.open(data)
    images = [i for s in opened.splits for i in opened.items_of(s) if i.modality == "image"]
    lost = next(item.did for item in images if item.did.startswith("valid-1#"))
    stand_ins.write(data, {item.did: "a drawing" for item in images if item.did != lost})
    models = [f"native={model}"]
    for form in ("image", "text"):
        overrides = tiny_run.settings(
            data, model, data__form=form, data__max_visual_tokens=12, schedule__steps=4,
            evaluation__every_steps=4 * (form == "image"), checkpoint__every_steps=4,
        )  # fmt: skip
        run = tmp_path / form
        training = tiny_run.start(run, overrides)
        printed, _ = training.communicate(timeout=300)
        assert training.returncode == 0, printed
        assert f"candidates as {form}" in printed
        lines = tiny_run.series(run)
        evaluated = [one["step"] for one in lines if one["kind"] == "valid"]
        assert evaluated == ([0, 4] if form == "image" else [])
        assert all(np.isfinite(one["loss"]) for one in lines if "loss" in one)
        models.append(f"{form}={run}" + (":text" if form == "text" else ""))

    common = ["--data", str(data), "--split", "valid"]
    everything = [*common, "--step", "last", "--model", *models]
    evaluate.main([*everything, "--resamples", "20", "--out", str(tmp_path / "out")])
    said = capsys.readouterr().out
    assert "1 of 4 lists are left out for all" in said and "image (image)" in said
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    forms = {name: one["form"] for name, one in report["about"]["tokens"].items()}
    assert forms == {"native": "native", "image": "image", "text": "text"}
    assert report["about"]["queries"] == 3 and report["about"]["lists_left_out"] == 1
    visual = {n: one["groups"]["all"]["visual"] for n, one in report["about"]["tokens"].items()}
    assert visual["image"] > visual["native"] > visual["text"] == 0
    with pytest.raises(SystemExit, match="--mixed changes the form"):
        evaluate.main([*everything, "--mixed", "2"])

    program = [sys.executable, str(tiny_run.ROOT / "benchmarks" / "forms.py"), *common]
    two = ["--model", f"native={model}", f"text={model}:text"]
    limits = ["--lists", "1", "--rounds", "1", "--out", str(tmp_path / "times.json")]
    done = subprocess.run(
        [*program, *two, *limits], cwd=tiny_run.ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    times = json.loads((tmp_path / "times.json").read_text())
    assert times == json.loads(done.stdout) and times["lists"] == 1
    found = times["milliseconds_per_list"]
    assert {name: one["form"] for name, one in found.items()} == {
        "native": "native",
        "text": "text",
    }
    assert all(one["median"] > 0 and one["programs"] > 0 for one in found.values())

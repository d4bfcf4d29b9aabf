"""Baselines and evaluation on small lists whose answers are known beforehand."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import tiny_run

from train import evaluate as command
from train.baselines import BM25, DualEncoder, TfIdf, random_order, text_pool
from train.config import load as load_config
from train.evaluation import (
    MACRO,
    MICRO,
    content,
    evaluate,
    evaluate_scores,
    examples_of,
    reranker_scorer,
)
from train.tables import as_json, render
from unirank_jax.content import ImagePart, TextPart, modality
from unirank_jax.datasets.dataset import Dataset
from unirank_jax.datasets.records import Item, Query, RankList
from unirank_jax.metrics import MetricError

WORDS = "alpha beta gamma delta epsilon zeta eta theta iota kappa".split()


def item(did, *parts):
    return Item(did, parts, modality(parts), did, "f", "k", did, did, "made", "CC0-1.0")


class Small(Dataset):
    """30 lists: in 20 of kind "word" the text names the query, in 10 of kind "picture" an image
    is the answer. Each has one positive, one negative text and two negative images."""

    def __init__(self, instruction=None):
        self.path = Path("small")
        self._items, self._queries, self._lists = {}, {}, []
        for i in range(30):
            word, other = WORDS[i % 10], WORDS[(i + 3) % 10]
            picture = i >= 20
            own = instruction if i % 2 else None
            self._queries[f"q{i}"] = Query(
                f"q{i}", (TextPart(word),), own, "d", "picture" if picture else "word", "", "", ""
            )
            answer = ImagePart(b"+") if picture else TextPart(f"a {word} card {i}")
            made = [
                item(f"{i}-wrong", TextPart(f"a {other} card {i}")),
                item(f"{i}-image", ImagePart(b"-")),
                item(f"{i}-right", answer),
                item(f"{i}-image2", ImagePart(b"-")),
            ]
            self._items.update((one.did, one) for one in made)
            dids = tuple(one.did for one in made)
            kinds = ("word", "image", "positive", "image")
            self._lists.append(RankList(f"q{i}", dids, (0, 0, 1, 0), kinds))

    fingerprint = "0123"
    splits = ("test",)

    def lists(self, split):
        return self._lists

    def query(self, qid):
        return self._queries[qid]

    def item(self, did):
        return self._items[did]

    def items_of(self, split):
        return list(self._items.values())

    def size(self, did):
        raise NotImplementedError


def knows_pictures(examples):
    """A scorer that finds the right image and is wrong about every text."""
    return [
        np.asarray(
            [
                1.0 if c.parts[0] == ImagePart(b"+") else 0.5 if "wrong" in c.did else 0.0
                for c in example.candidates
            ],
            np.float32,
        )
        for example in examples
    ]


@pytest.fixture(scope="module")
def report():
    return evaluate(Small(), "test", {"pictures": knows_pictures}, resamples=500, seed=0)


def hit(report, name, scorer, view="whole lists"):
    return report.row(name, view).values[scorer]["hit@1"].mean


def test_known_answers_per_kind(report):
    for scorer in ("BM25", "TF-IDF"):
        assert hit(report, "kind: word", scorer) == 1.0
        # No text matches: the positive image ties with all four candidates.
        assert hit(report, "kind: picture", scorer) == 0.25
        assert hit(report, MACRO, scorer) == pytest.approx((1 + 0.25) / 2)
        assert hit(report, MICRO, scorer) == pytest.approx((20 * 1 + 10 * 0.25) / 30)
    assert hit(report, MACRO, "random") == 0.25
    assert hit(report, "kind: word", "pictures") == 0.0
    assert hit(report, "kind: picture", "pictures") == 1.0


def test_slices_by_the_modality_of_the_positive_and_parts_of_the_lists(report):
    assert report.row("positive: image").queries == 10
    assert report.row("positive: text").queries == 20
    assert report.row("single positive").queries == 30
    # Among the 3 images of a "picture" list; "word" lists have no relevant image.
    assert report.row(MACRO, "images only").queries == 10
    assert hit(report, MACRO, "random", "images only") == pytest.approx(1 / 3)
    assert hit(report, MACRO, "BM25", "images only") == pytest.approx(1 / 3)
    assert hit(report, MACRO, "pictures", "images only") == 1.0
    assert report.row(MICRO, "texts only").queries == 20
    assert hit(report, MICRO, "random", "texts only") == 0.5
    assert hit(report, MICRO, "pictures", "texts only") == 0.0
    with pytest.raises(KeyError, match="mixed"):
        report.row("positive: mixed")


def test_a_model_is_compared_with_every_baseline_and_losses_are_shown(report):
    lost = report.row(MICRO).differences["pictures"]["BM25"]
    assert lost.mean == pytest.approx(1 / 3 - 0.75)
    assert lost.high < 0 and lost.p < 0.05
    # All 20 "word" queries are lost: the exact binomial tail.
    tests = report.row("kind: word").mcnemar
    assert tests["pictures"]["BM25"] == pytest.approx(2 / 2**20)
    assert report.row(MACRO).mcnemar == {}
    assert set(report.row(MACRO).differences["pictures"]) == {"random", "BM25", "TF-IDF"}


def test_tables_show_every_scorer_slice_and_the_small_numbers(report):
    text = render(report, every_slice=True)
    for expected in ("random", "BM25", "TF-IDF", "pictures - BM25", "kind: picture", "images only"):
        assert expected in text
    assert " 30* |" in text  # fewer than 500 queries
    (line,) = [row for row in text.splitlines() if row.startswith("| kind: word ")][:1]
    assert line.count("100.0 [100.0, 100.0]") == 2
    assert "kind: word" not in [
        row.split("|")[1].strip()
        for row in render(report, every_slice=False).split("paired differences")[1].splitlines()
        if row.startswith("|")
    ]


def test_files_hold_every_query_and_its_scores_without_loss(report, tmp_path):
    command.write(report, tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "queries.jsonl").read_text().splitlines()]
    assert [line["qid"] for line in lines] == [f"q{i}" for i in range(30)]
    data = Small()
    examples = examples_of(data, "test")
    scores = TfIdf(text_pool(data, "test", examples))(examples)
    assert np.array_equal(np.float32(lines[0]["scores"]["TF-IDF"]), scores[0])
    again = json.loads((tmp_path / "report.json").read_text())
    assert again == json.loads(json.dumps(as_json(report)))
    assert "kind: word" in (tmp_path / "report.md").read_text()


def test_plain_numbers_agree_with_the_report(report):
    examples = examples_of(Small(), "test")
    values = evaluate_scores(examples, knows_pictures(examples))
    assert values["macro/hit@1"] == 0.5
    assert values["micro/hit@1"] == hit(report, MICRO, "pictures")
    assert values["kind/picture/ndcg@10"] == 1.0
    assert values["positive/text/hit@1"] == 0.0
    assert values["images/hit@1"] == 1.0
    assert values["images/chance/hit@1"] == pytest.approx(1 / 3)
    assert values["texts/chance/hit@1"] == 0.5
    assert values["queries"] == 30
    assert values["tie_rate"] == report.tie_rates["pictures"]


def test_nan_scores_stop_the_evaluation_unless_counted_as_last():
    def failing(examples):
        scores = knows_pictures(examples)
        scores[21][2] = np.nan  # the positive of a "picture" list
        return scores

    run = {"models": {"m": failing}, "resamples": 10, "seed": 0}
    with pytest.raises(MetricError, match="query q21"):
        evaluate(Small(), "test", **run)
    counted = evaluate(Small(), "test", **run, nan_last=True)
    assert hit(counted, "kind: picture", "m") == pytest.approx(0.9)
    assert counted.queries[21]["scores"]["m"] == [0.5, 0.0, None, 0.0]


def test_further_baselines_join_the_three_that_are_always_shown():
    more = {"dual encoder": random_order}
    report = evaluate(Small(), "test", {"m": knows_pictures}, more, resamples=1, seed=0)
    assert report.baselines == ("random", "BM25", "TF-IDF", "dual encoder", "first stage")
    assert "dual encoder" in report.row(MICRO).differences["m"]


def test_limit_spreads_over_the_split():
    assert [e.query.qid for e in examples_of(Small(), "test", 3)] == ["q0", "q10", "q20"]
    assert len(examples_of(Small(), "test", 99)) == 30


def test_one_name_for_two_scorers_is_an_error():
    with pytest.raises(ValueError, match="rename"):
        evaluate(Small(), "test", {"random": random_order}, resamples=1, seed=0)


# Baselines ----------------------------------------------------------------------------------------


def test_bm25_follows_its_formula():
    data = Small()
    pool = ["red apple", "red red car", "blue sky over the sea"]
    example = data.example("test", 0)
    query = Query("q", (TextPart("red"),), None, "d", "k", "", "", "")
    candidates = tuple(item(str(i), TextPart(text)) for i, text in enumerate(pool))
    made = type(example)(query, candidates, (1, 0, 0), ("", "", ""))
    (scores,) = BM25(pool)([made])
    idf = math.log(1 + (3 - 2 + 0.5) / (2 + 0.5))
    mean_length = (2 + 3 + 5) / 3

    def expected(tf, length):
        return idf * tf / (tf + 1.5 * (1 - 0.75 + 0.75 * length / mean_length))

    assert scores == pytest.approx([expected(1, 2), expected(2, 3), 0.0], rel=1e-5)


def test_tfidf_sees_parts_of_words_where_bm25_sees_none():
    data = Small()
    example = data.example("test", 0)
    query = Query("q", (TextPart("2-methylbutanol"),), None, "d", "k", "", "", "")
    texts = ("3-methylpentanol ester", "sodium chloride", "")
    candidates = tuple(
        item(str(i), TextPart(text) if text else ImagePart(b"-")) for i, text in enumerate(texts)
    )
    made = type(example)(query, candidates, (1, 0, 0), ("", "", ""))
    pool = [text for text in texts if text]
    assert BM25(pool)([made])[0].tolist() == [0, 0, 0]
    (scores,) = TfIdf(pool)([made])
    assert scores[0] > 0.1 and scores[1:].tolist() == [0, 0]


def test_tfidf_of_equal_texts_is_one():
    pool = ["red apple", "blue sky"]
    query = Query("q", (TextPart("Red  apple"),), None, "d", "k", "", "", "")
    candidates = tuple(item(str(i), TextPart(text)) for i, text in enumerate(pool))
    made = type(Small().example("test", 0))(query, candidates, (1, 0), ("", ""))
    (scores,) = TfIdf(pool)([made])
    assert scores == pytest.approx([1.0, 0.0], abs=1e-6)


def test_baselines_without_any_text_give_ties():
    query = Query("q", (ImagePart(b"?"),), None, "d", "k", "", "", "")
    candidates = (item("a", ImagePart(b"+")), item("b", TextPart("word")))
    made = type(Small().example("test", 0))(query, candidates, (1, 0), ("", ""))
    for scorer in (random_order, BM25(["word"]), BM25([]), TfIdf(["word"])):
        if isinstance(scorer, BM25) and scorer._index is None:
            made = type(made)(query, candidates[:1], (1,), ("",))
        (scores,) = scorer([made])
        assert scores.dtype == np.float32 and not scores.any()


def test_the_pool_holds_every_text_once():
    data = Small()
    pool = text_pool(data, "test", examples_of(data, "test"))
    assert len(pool) == len(set(pool)) == 50 and "" not in pool


def test_dual_encoder_is_the_cosine_and_embeds_each_candidate_once():
    seen = []

    def embed_items(items):
        seen.extend(item.did for item in items)
        return np.asarray(
            [[3.0, 0.0] if one.parts[0] == ImagePart(b"+") else [1.0, 1.0] for one in items]
        )

    def embed_queries(queries):
        return np.asarray([[0.5, 0.0]] * len(queries))

    data = Small()
    examples = [data.example("test", 20), data.example("test", 20)]
    scores = DualEncoder(embed_queries, embed_items)(examples)
    assert scores[0] == pytest.approx([math.sqrt(0.5), math.sqrt(0.5), 1.0, math.sqrt(0.5)])
    assert np.array_equal(scores[0], scores[1])
    assert seen == [item.did for item in examples[0].candidates]


@pytest.mark.parametrize("vectors", [np.zeros((4, 2)), np.ones((3, 2)), np.full((4, 2), np.nan)])
def test_a_broken_encoder_is_an_error(vectors):
    encoder = DualEncoder(lambda queries: np.ones((1, 2)), lambda items: vectors)
    with pytest.raises(ValueError, match="embedding of candidates"):
        encoder([Small().example("test", 20)])


# Rerankers ----------------------------------------------------------------------------------------


class Recorder:
    """Stands in for a Reranker: the logit is the length of the candidate's text."""

    def __init__(self):
        self.calls = []

    def logits_many(self, queries, candidate_lists, *, instruction, on_error):
        self.calls.append((len(queries), instruction, on_error))
        return [
            np.asarray([len(c[0]) if isinstance(c[0], str) else -1 for c in cs], np.float32)
            for cs in candidate_lists
        ]


def test_a_reranker_is_called_in_chunks_with_every_query_s_instruction():
    reranker = Recorder()
    examples = examples_of(Small("find the card"), "test")
    scores = reranker_scorer(reranker, lists_per_call=20, on_error="nan")(examples)
    both = [None, "find the card"]
    assert reranker.calls == [(20, both * 10, "nan"), (10, both * 5, "nan")]
    for example, values in zip(examples, scores, strict=True):
        texts = [c.parts[0] for c in example.candidates]
        assert values.tolist() == [len(t.text) if isinstance(t, TextPart) else -1 for t in texts]


def test_content_keeps_the_order_of_parts():
    parts = (ImagePart(b"1"), TextPart("two"), ImagePart("three.png"))
    assert content(parts) == [{"image": b"1"}, "two", {"image": "three.png"}]


# The command --------------------------------------------------------------------------------------


@pytest.fixture
def my_lists(tmp_path):
    """A user's folder: 6 test lists, of which BM25 answers every one."""
    folder = tmp_path / "my_lists"
    folder.mkdir()
    with open(folder / "test.jsonl", "w") as file:
        for i in range(6):
            line = {
                "qid": f"q{i}",
                "query": {"text": WORDS[i]},
                "candidates": [
                    {"text": f"a {WORDS[i + 1]} card {i}", "grade": 0},
                    {"text": f"a {WORDS[i]} card {i}", "grade": 1},
                ],
            }
            file.write(json.dumps(line) + "\n")
    return folder


def test_the_command_on_a_user_s_folder(my_lists, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command, "model_scorer", lambda *arguments: knows_pictures)
    out = tmp_path / "out"
    arguments = ["--data", str(my_lists), "--out", str(out), "--resamples", "100"]
    command.main(arguments)
    printed = capsys.readouterr().out
    assert "my_lists / test: 6 queries" in printed and "default - BM25" in printed
    report = json.loads((out / "report.json").read_text())
    whole = {row["name"]: row for row in report["rows"] if row["view"] == "whole lists"}
    assert whole[MACRO]["values"]["BM25"]["hit@1"]["mean"] == 1.0
    assert whole[MACRO]["values"]["random"]["hit@1"]["mean"] == 0.5
    assert len((out / "queries.jsonl").read_text().splitlines()) == 6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--split", "train"], "no lists in split 'train'; choose one of: test"),
        (["--data", "nowhere"], "nowhere"),
        (["--model", "nowhere"], "nowhere does not exist"),
        (["--set", "data.sourc=x"], "did you mean"),
    ],
)
def test_bad_arguments_end_with_a_message_before_anything_is_scored(my_lists, arguments, message):
    with pytest.raises(SystemExit) as caught:
        command.main(["--data", str(my_lists), *arguments])
    assert message in str(caught.value)


def test_a_run_without_the_step_is_told_before_anything_is_scored(my_lists, tmp_path, monkeypatch):
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    config = load_config(str(tiny_run.ROOT / "configs" / "sci.py"))
    (run / "config.json").write_text(json.dumps({"config": asdict(config)}))
    monkeypatch.setattr(
        command, "model_scorer", lambda *arguments: pytest.fail("a model is opened")
    )
    with pytest.raises(SystemExit, match="no checkpoint 'best'; complete steps: none"):
        command.main(["--data", str(my_lists), "--model", str(run)])


def test_two_models_of_one_name_are_an_error(my_lists, tmp_path):
    for parent in ("a", "b"):
        (tmp_path / parent / "exported").mkdir(parents=True)
        (tmp_path / parent / "exported" / "config.json").write_text("{}")
    models = [str(tmp_path / parent / "exported") for parent in ("a", "b")]
    with pytest.raises(SystemExit, match="'exported' is taken; write NAME="):
        command.main(["--data", str(my_lists), "--model", *models])


def guesses_with_a_liking_for_images(examples):
    """Mostly right, and two too high for every image."""
    rng = np.random.default_rng(0)
    return [
        np.asarray(
            [
                3.0 * grade + 2.0 * (item.modality == "image") + rng.normal()
                for item, grade in zip(example.candidates, example.grades, strict=True)
            ],
            np.float32,
        )
        for example in examples
    ]


def test_a_liking_for_one_modality_is_shown_and_a_fit_per_modality_competes():
    scorers = {"guess": guesses_with_a_liking_for_images}
    report = evaluate(Small(), "test", scorers, resamples=200, seed=0)
    assert "guess + Platt" in report.baselines
    assert hit(report, MICRO, "guess + Platt") > hit(report, MICRO, "guess")
    assert "guess + Platt" in report.row(MICRO).differences["guess"]
    assert report.bias["guess"].share_excess[1].low > 0
    assert report.bias["guess + Platt"].share_excess[1].mean < 0.1
    assert "random" not in report.bias, "all of its scores are equal"
    quality = report.calibration["guess"]
    assert quality.after["all"].ece < quality.before["all"].ece
    text = render(report, every_slice=True)
    assert "## modality bias" in text and "## calibration" in text
    assert {"bias", "calibration"} <= as_json(report).keys()
    json.dumps(as_json(report), allow_nan=False)

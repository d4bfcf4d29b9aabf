"""Prompts: token ids against the published tokenizer, the cut for the shared prefix, truncation.

The reduced tokenizer in tests/golden has the published ids for the golden texts. Set
UNIRANK_QWEN3_TOKENIZER to a full tokenizer.json to run the same tests with it.
"""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from PIL import Image

from unirank_jax.content import ContentError, ImagePart, TextPart, parse
from unirank_jax.datasets.dataset import sample
from unirank_jax.images import ImageSpec, decode, to_patches
from unirank_jax.prompt import (
    DEFAULT_INSTRUCTION,
    DOCUMENT_FIRST,
    PROMPT_IDS,
    Prompt,
    SizedImage,
    Tokenizer,
)

FOLDER = Path(__file__).parent / "golden"
GOLDEN = json.loads((FOLDER / "prompt_qwen3.json").read_text(encoding="utf-8"))
QWEN3 = Path(os.environ.get("UNIRANK_QWEN3_TOKENIZER", FOLDER / "qwen3_reduced_tokenizer.json"))
TINY = Path(__file__).parents[1] / "unirank_jax" / "assets" / "tokenizer"
SPEC = ImageSpec(patch_size=16, merge_size=2, min_visual_tokens=4, max_visual_tokens=1800)
PLAIN, NATIVE, _ = PROMPT_IDS


@pytest.fixture(scope="module")
def qwen3() -> Tokenizer:
    return Tokenizer.from_file(QWEN3)


def make(tokenizer: Tokenizer, prompt_id: str = PLAIN, **changes) -> Prompt:
    options = {"spec": SPEC, "max_tokens": 4096, "max_query_tokens": 512} | changes
    return Prompt(tokenizer, prompt_id, **options)


def picture(height: int, width: int) -> Image.Image:
    values = np.random.default_rng(height * 1000 + width).integers(0, 256, (height, width, 3))
    return Image.fromarray(values.astype(np.uint8))


def contents(parts: list) -> tuple:
    """Parts of a golden case; an image there is {"image": [height, width], "tokens": n}."""
    given = [part if isinstance(part, str) else picture(*part["image"]) for part in parts]
    return parse(given, "part")


def whole(prompt: Prompt, prefix, candidate) -> list[int]:
    assert len(prefix.tokens) + len(candidate.tokens) <= prompt.max_tokens
    assert prefix.tokens.dtype == candidate.tokens.dtype == np.int32
    return [*prefix.tokens.tolist(), *candidate.tokens.tolist()]


# ---------------------------------------------------------------- ids


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda case: case["name"])
def test_golden_ids(qwen3: Tokenizer, case: dict) -> None:
    prompt = make(qwen3, case["prompt_id"])
    prefix = prompt.prefix(contents(case["query"]), case["instruction"])
    candidate = prompt.candidate(contents(case["document"]), "candidates[0]", len(prefix.tokens))
    assert whole(prompt, prefix, candidate) == case["ids"]
    assert not prefix.truncated and not candidate.truncated


def test_golden_cases_pass_the_image_pixels_on(qwen3: Tokenizer) -> None:
    """Images come in the order of their tokens: two sizes, told apart by their grids."""
    parts = parse(["a", picture(64, 64), "b", picture(64, 160)], "query")
    encoded = make(qwen3, NATIVE).prefix(parts)
    assert [image.grid for image in encoded.images] == [(4, 4), (4, 10)]
    first = to_patches(parts[1].source, SPEC)
    assert np.array_equal(encoded.images[0].pixels, first.pixels)
    assert encoded.images[0].digest == first.digest


def test_labels_are_the_published_ones(qwen3: Tokenizer) -> None:
    assert make(qwen3).label_ids == (9693, 2152) == tuple(GOLDEN["labels"].values())
    assert make(qwen3).image_token_id == 151655


def test_default_instruction_is_the_published_one() -> None:
    assert {case["instruction"] for case in GOLDEN["cases"][:3]} == {DEFAULT_INSTRUCTION}


def library_tokenizer(path: Path) -> tokenizers.Tokenizer:
    """The file as the library reads it, special tokens found in the text.

    The library renumbers special tokens when the vocabulary has holes, as the reduced one has: the
    holes are filled with entries that no merge reaches.
    """
    content = json.loads((path / "tokenizer.json" if path.is_dir() else path).read_bytes())
    vocabulary = content["model"]["vocab"]
    taken = {*vocabulary.values(), *(token["id"] for token in content["added_tokens"])}
    holes = set(range(max(taken))) - taken
    content["model"]["vocab"] = vocabulary | {f"\x00{hole}": hole for hole in holes}
    return tokenizers.Tokenizer.from_str(json.dumps(content))


@pytest.mark.parametrize("path", [QWEN3, TINY], ids=["qwen3", "embedded"])
def test_tokenised_apart_equals_tokenised_at_once(path: Path) -> None:
    """Prefix and candidate apart give the ids of the whole string, special tokens included."""
    at_once = library_tokenizer(path)
    prompt = make(Tokenizer.from_file(path))
    texts = GOLDEN["boundary"]
    for query, document in zip(texts, [*texts[7:], *texts[:7]], strict=True):
        prefix = prompt.prefix((TextPart(query),))
        candidate = prompt.candidate((TextPart(document),), "candidates[0]", len(prefix.tokens))
        text = (
            "<|im_start|>system\nJudge whether the Document meets the requirements based on the "
            "Query and the Instruct provided. Note that the answer can only be "
            '"yes" or "no".<|im_end|>\n<|im_start|>user\n<Instruct>: '
            f"{DEFAULT_INSTRUCTION}<Query>:{query}\n<Document>:{document}<|im_end|>\n"
            "<|im_start|>assistant\n"
        )
        ids = at_once.encode(text, add_special_tokens=False).ids
        assert whole(prompt, prefix, candidate) == ids, (query, document)


@pytest.mark.parametrize("path", [QWEN3, TINY], ids=["qwen3", "embedded"])
def test_with_the_document_first_the_sides_make_the_whole_string(path: Path) -> None:
    at_once = library_tokenizer(path)
    prompt = make(Tokenizer.from_file(path), DOCUMENT_FIRST)
    texts = GOLDEN["boundary"]
    static = prompt.static("Other.").tokens.tolist()
    assert static == prompt.static().tokens.tolist(), "no instruction changes what is kept"
    for query, document in zip(texts, [*texts[7:], *texts[:7]], strict=True):
        candidate = prompt.candidate((TextPart(document),), "candidates[0]", 10**6)
        asked = prompt.query((TextPart(query),), "Other.")
        text = (
            "<|im_start|>system\nJudge whether the Document meets the requirements based on the "
            "Query and the Instruct provided. Note that the answer can only be "
            '"yes" or "no".<|im_end|>\n<|im_start|>user\n'
            f"<Document>:{document}\n<Instruct>: Other.\n<Query>:{query}<|im_end|>\n"
            "<|im_start|>assistant\n"
        )
        ids = at_once.encode(text, add_special_tokens=False).ids
        assert static + candidate.tokens.tolist() + asked.tokens.tolist() == ids, document


def test_with_the_document_first_each_side_has_its_own_room(qwen3: Tokenizer) -> None:
    """The longest candidate and the longest query fill max_tokens, whatever is asked."""
    prompt = make(qwen3, DOCUMENT_FIRST, max_tokens=160, max_query_tokens=30)
    long = (TextPart("benzene " * 200),)
    candidate = prompt.candidate(long, "candidates[0]", 0)
    asked = prompt.query(long)
    assert candidate.truncated and asked.truncated
    assert len(prompt.static()) + len(candidate) + len(asked) == 160
    other = prompt.query(long, "A far longer instruction than the default, which leaves less room")
    assert len(other) <= len(asked) and other.truncated
    with pytest.raises(ContentError, match=r"^query: with its text cut .* of the \d+ tokens"):
        prompt.query(parse(["a", picture(512, 512)], "query"))
    with pytest.raises(ContentError, match=r"^query: .*instruction"):
        prompt.query(long, "no room " * 40)
    with pytest.raises(ValueError, match="give max_query_tokens of at least 1 and max_tokens of"):
        make(qwen3, DOCUMENT_FIRST, max_tokens=90, max_query_tokens=30)


def test_a_cut_after_the_marker_would_differ(qwen3: Tokenizer) -> None:
    """Why the cut is after `<Document`: `>:` merges with an opening bracket of the text."""
    assert qwen3.encode("<Document>:(x") != qwen3.encode("<Document>:") + qwen3.encode("(x")
    assert qwen3.encode("<Document>:(x") == qwen3.encode("<Document") + qwen3.encode(">:(x")


def test_the_embedded_tokenizer_cuts_anywhere_in_its_own_data() -> None:
    """Apart equals at once for texts of the embedded sample, as queries and as candidates."""
    tokenizer = Tokenizer.from_file(TINY)
    data = sample("sci")
    checked = 0
    for index in range(min(200, len(data.lists("test")))):
        for item in data.example("test", index).candidates:
            for part in item.parts:
                if isinstance(part, TextPart):
                    at_once = tokenizer.encode(f"\n<Document>:{part.text}")
                    apart = tokenizer.encode("\n<Document") + tokenizer.encode(f">:{part.text}")
                    assert at_once == apart, part.text
                    checked += 1
    assert checked > 200


# ---------------------------------------------------------------- control strings


def test_user_text_never_makes_a_special_token(qwen3: Tokenizer) -> None:
    names = list(GOLDEN["special"])
    specials = set(GOLDEN["special"].values())
    text = " ".join(names) + "".join(names)
    assert not specials & set(qwen3.encode(text))
    prompt = make(qwen3)
    empty = prompt.prefix((TextPart("x"),))
    hostile = prompt.prefix((TextPart(text),), instruction=text)
    counts = [
        [int(np.sum(encoded.tokens == number)) for number in sorted(specials)]
        for encoded in (empty, hostile)
    ]
    assert counts[0] == counts[1]


def test_decode_gives_text_and_special_tokens_back(qwen3: Tokenizer) -> None:
    ids = [qwen3.special("<|im_start|>"), *qwen3.encode("🙂 é"), qwen3.special("<|im_end|>")]
    assert qwen3.decode(ids) == "<|im_start|>🙂 é<|im_end|>"


def test_batch_encoding_is_the_same(qwen3: Tokenizer) -> None:
    texts = GOLDEN["boundary"][:30]
    assert qwen3.encode_batch(texts) == [qwen3.encode(text) for text in texts]


# ---------------------------------------------------------------- tokenizer files


def write(folder: Path, change) -> Path:
    content = json.loads(QWEN3.read_bytes())
    change(content)
    (folder / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def test_folder_and_file_are_the_same(tmp_path: Path, qwen3: Tokenizer) -> None:
    folder = write(tmp_path, lambda content: None)
    for path in (folder, str(folder), folder / "tokenizer.json"):
        assert Tokenizer.from_file(path).encode("yes (R)") == qwen3.encode("yes (R)")


def test_saved_truncation_and_padding_are_ignored(tmp_path: Path, qwen3: Tokenizer) -> None:
    """A tokenizer saved with truncation must not cut prompts without telling."""
    truncation = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}
    folder = write(tmp_path, lambda content: content.update(truncation=truncation))
    assert Tokenizer.from_file(folder).encode("what is the capital") == qwen3.encode(
        "what is the capital"
    )


def test_a_reachable_special_token_is_refused(tmp_path: Path) -> None:
    """A special token inside the model's own vocabulary could be written by a user."""

    def add(content: dict) -> None:
        content["model"]["vocab"]["<|im_end|>"] = 151645
        content["model"]["ignore_merges"] = True
        content["pre_tokenizer"] = {
            "type": "ByteLevel",
            "add_prefix_space": False,
            "trim_offsets": False,
            "use_regex": False,
        }

    with pytest.raises(ValueError, match=r"plain text encodes to .*<\|im_end\|>"):
        Tokenizer.from_file(write(tmp_path, add))


@pytest.mark.parametrize("text", ["{", "[]", '{"model": {"type": "no such model"}}'])
def test_a_broken_tokenizer_file_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(ValueError, match="tokenizer.json: "):
        Tokenizer.from_file(tmp_path)


def test_a_missing_tokenizer_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"tokenizer\.json: no such file; give"):
        Tokenizer.from_file(tmp_path)


# ---------------------------------------------------------------- construction


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompt_id": "qwen3-reranker"}, "unknown prompt_id .*choose one of"),
        ({"label_tokens": ("yes", "absolutely not")}, "choose a label that is one token"),
        ({"label_tokens": ("yes", "yes")}, "are the same token; choose two"),
        ({"max_query_tokens": 0}, "give max_query_tokens of at least 1"),
        ({"max_tokens": 90, "max_query_tokens": 40}, "max_tokens of at least"),
    ],
)
def test_wrong_settings(qwen3: Tokenizer, changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(qwen3, **changes)


def test_the_named_least_max_tokens_is_enough(qwen3: Tokenizer) -> None:
    with pytest.raises(ValueError) as caught:
        make(qwen3, max_tokens=90, max_query_tokens=40)
    least = int(str(caught.value).rsplit(" ", 1)[1])
    prompt = make(qwen3, max_tokens=least, max_query_tokens=40)
    prefix = prompt.prefix((TextPart("long query, " * 40),))
    candidate = prompt.candidate((TextPart("word " * 40),), "c", len(prefix.tokens))
    assert prefix.truncated and candidate.truncated
    assert least - 4 <= len(prefix.tokens) + len(candidate.tokens) <= least


def test_a_missing_special_token_is_named(tmp_path: Path) -> None:
    def drop(content: dict) -> None:
        content["added_tokens"] = [
            token for token in content["added_tokens"] if token["content"] != "<|image_pad|>"
        ]

    with pytest.raises(ValueError, match=r"no special token '<\|image_pad\|>'"):
        make(Tokenizer.from_file(write(tmp_path, drop)))


# ---------------------------------------------------------------- truncation


def suffix(tokenizer: Tokenizer) -> list[int]:
    start, end = tokenizer.special("<|im_start|>"), tokenizer.special("<|im_end|>")
    return [end, *tokenizer.encode("\n"), start, *tokenizer.encode("assistant\n")]


def test_only_text_is_cut_and_the_suffix_stays(qwen3: Tokenizer) -> None:
    """At every bound: what is kept is a beginning of the text, images and suffix are whole."""
    text = "The dashed line (b) shows 🙂👩‍🔬 the fit 分子の構造 e\u0301t\u00e9 12345\n\nend"
    parts = parse([picture(64, 64), text], "c")
    full = make(qwen3).candidate(parts, "c", 80)
    assert not full.truncated
    end = suffix(qwen3)
    shorter = []
    for max_tokens in range(80 + 6 + len(end) + 1 + 5, 80 + len(full.tokens)):
        prompt = make(qwen3, max_tokens=max_tokens, max_query_tokens=1)
        cut = prompt.candidate(parts, "c", 80)
        assert cut.truncated and len(cut.tokens) + 80 <= max_tokens
        assert len(cut.images) == 1
        tokens = cut.tokens.tolist()
        assert tokens[-len(end) :] == end
        assert tokens.count(prompt.image_token_id) == 4
        kept = qwen3.decode(tokens[: -len(end)]).split("<|vision_end|>")[1]
        assert "\ufffd" not in kept, "a character was cut in two"
        # The tokenizer normalises to NFC, hence the comparison after the same step.
        assert qwen3.decode(qwen3.encode(text)).startswith(kept)
        shorter.append(len(kept))
    assert shorter == sorted(shorter) and len(set(shorter)) > 20
    assert max_tokens - 80 - len(cut.tokens) <= 1, "much less was kept than fits"


def test_later_text_is_cut_first(qwen3: Tokenizer) -> None:
    parts = parse(["first text ", picture(64, 64), "second text"], "c")
    full = make(qwen3, NATIVE).candidate(parts, "c", 80)
    found = []
    for less in range(1, len(full.tokens)):
        prompt = make(qwen3, NATIVE, max_tokens=80 + len(full.tokens) - less, max_query_tokens=1)
        try:
            text = qwen3.decode(prompt.candidate(parts, "c", 80).tokens)
        except (ContentError, ValueError):
            break
        before, after = text.split("<|vision_start|>")
        found.append((before[2:], after.split("<|vision_end|>")[1].split("<|im_end|>")[0]))
    assert ("first text ", "") in found
    for before, after in found:
        assert before == "first text " or after == "", (before, after)
    assert len(found[0][1]) > 0


def test_the_query_is_bounded_by_its_own_limit(qwen3: Tokenizer) -> None:
    query = parse([picture(64, 160), "what is the capital of China? " * 20], "query")
    short = make(qwen3, max_query_tokens=8).prefix(query)
    bare = make(qwen3).prefix(query[:1])
    assert short.truncated and not bare.truncated
    assert 0 < len(short.tokens) - len(bare.tokens) <= 8
    assert qwen3.decode(short.tokens).endswith("\n<Document")


def test_the_instruction_is_never_cut(qwen3: Tokenizer) -> None:
    prompt = make(qwen3, max_tokens=200, max_query_tokens=10)
    with pytest.raises(ContentError, match=r"^query: .*shorten the instruction"):
        prompt.prefix((TextPart("x"),), instruction="do this " * 200)


def test_images_that_do_not_fit_are_an_error(qwen3: Tokenizer) -> None:
    prompt = make(qwen3, max_tokens=150, max_query_tokens=10)
    large = parse({"image": picture(320, 320), "text": "text"}, "candidates[2]")
    with pytest.raises(ContentError, match=r"^candidates\[2\]: .*; use fewer or smaller images"):
        prompt.candidate(large, "candidates[2]", 80)
    with pytest.raises(ContentError, match=r"^query: .*; use fewer or smaller images"):
        prompt.prefix(large)


def test_a_candidate_cut_to_nothing_is_an_error(qwen3: Tokenizer) -> None:
    prompt = make(qwen3, max_tokens=150, max_query_tokens=10)
    with pytest.raises(ContentError, match=r"^candidates\[0\]: .* even with its text cut"):
        prompt.candidate((TextPart("some text"),), "candidates[0]", 150)
    with pytest.raises(ContentError, match=r"^query: .*; raise max_query_tokens"):
        make(qwen3, max_query_tokens=1).prefix((TextPart("𒀀"),))


def test_a_thin_image_is_an_error_at_its_place(qwen3: Tokenizer) -> None:
    parts = parse(["text", {"image": picture(1, 201)}], "candidates[4]")
    for method in (make(qwen3).candidate, make(qwen3).candidate_length):
        with pytest.raises(
            ContentError, match=r"^candidates\[4\]\[1\]\.image: one side of 201 x 1"
        ):
            method(parts, "candidates[4]", 80)


# ---------------------------------------------------------------- sizes without decoding


@pytest.mark.parametrize("prompt_id", PROMPT_IDS)
@pytest.mark.parametrize("max_tokens", [110, 140, 170, 4096])
def test_lengths_equal_the_encoding(qwen3: Tokenizer, prompt_id: str, max_tokens: int) -> None:
    prompt = make(qwen3, prompt_id, max_tokens=max_tokens, max_query_tokens=12)
    checked = 0
    for case in GOLDEN["cases"]:
        for parts in (contents(case["query"]), contents(case["document"])):
            sized = tuple(
                SizedImage(part.source.height, part.source.width, part.place)
                if isinstance(part, ImagePart)
                else part
                for part in parts
            )
            decoded = tuple(
                to_patches(decode(part.source, "x"), SPEC) if isinstance(part, ImagePart) else part
                for part in parts
            )
            for encode, length in (
                (
                    prompt.query if prompt.document_first else prompt.prefix,
                    prompt.query_length,
                ),
                (
                    lambda given: prompt.candidate(given, "c", 80),
                    lambda given: prompt.candidate_length(given, "c", 80),
                ),
            ):
                try:
                    encoded = encode(parts)
                except ContentError as error:
                    for given in (parts, sized):
                        with pytest.raises(ContentError) as caught:
                            length(given)
                        assert str(caught.value) == str(error)
                    continue
                checked += 1
                for given in (parts, sized):
                    found = length(given)
                    assert found.tokens == len(encoded.tokens)
                    assert found.patches == tuple(len(image.pixels) for image in encoded.images)
                    assert found.truncated == encoded.truncated
                again = encode(decoded)
                assert again.tokens.tolist() == encoded.tokens.tolist()
                assert [i.digest for i in again.images] == [i.digest for i in encoded.images]
    assert checked > 15

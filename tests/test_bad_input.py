"""Bad input, text and images: each kind gives its documented error, never a score.

Each error is a `ContentError` whose message starts with the place and ends with the remedy.
"""

import io
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from unirank_jax import images
from unirank_jax.content import ContentError, parse
from unirank_jax.images import ImageSpec
from unirank_jax.prompt import Prompt, Tokenizer

TOKENIZER = Path(__file__).parent / "golden" / "qwen3_reduced_tokenizer.json"
EMBEDDED_TOKENIZER = Path(__file__).parents[1] / "unirank_jax" / "assets" / "tokenizer"
FILE_REMEDY = "give a complete PNG, JPEG, WEBP, GIF, BMP or TIFF file"
SMALLER = "scale it down before passing it"
EIGHT_BITS = "convert the image to 8 bits per channel"


def picture(height: int = 24, width: int = 32) -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (height, width, 3))
    return Image.fromarray(values.astype(np.uint8))


def encoded(kind: str, image: Image.Image | None = None, **options) -> bytes:
    stream = io.BytesIO()
    (image or picture()).save(stream, kind, **options)
    return stream.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A PNG that promises this many pixels and holds none."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    header = struct.pack(">2I5B", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"IEND", b"")
    )


def cut_png() -> bytes:
    data = encoded("PNG")
    return data[: len(data) // 2]


def flipped_png() -> bytes:
    data = bytearray(encoded("PNG"))
    data[len(data) // 2] ^= 255
    return bytes(data)


def nested_list() -> list:
    content: list = ["a"]
    content.append(content)
    return content


# kind: (content or a function of a temporary folder, place after "candidates[1]", problem, remedy)
BAD: dict[str, tuple[Any, str, str, str]] = {
    # text and structure
    "None": (None, "", "cannot read a NoneType", "or a list of such parts"),
    "number": (3.5, "", "cannot read a float", "or a list of such parts"),
    "not a number": (float("nan"), "", "cannot read a float", "or a list of such parts"),
    "empty text": ("", "", "the text is empty", "give some text or leave it out"),
    "white space": (" \n\t\u3000", "", "only white space", "give some text or an image"),
    "lone surrogate": ("a\ud800", "", "a lone surrogate at character 1", "errors='replace'"),
    "empty list": ([], "", "the list of parts is empty", "give at least one part"),
    "blank list": ([" ", "\n"], "", "only white space", "give some text or an image"),
    "nested list": (nested_list(), "[1]", "a list inside a list", "into one list"),
    "None in a list": (["a", None], "[1]", "cannot read a NoneType", "or a list of such parts"),
    "empty text in a list": (["a", ""], "[1]", "the text is empty", "or leave it out"),
    "both keys in a list": (
        ["a", {"text": "b", "image": picture()}],
        "[1]",
        "holds both 'text' and 'image'",
        "in the order they should be read",
    ),
    "empty dict": ({}, "", "an empty dict", "give 'text', 'image' or both"),
    "misspelt key": ({"imgae": b"x"}, "", "unknown key 'imgae'", "write 'image'"),
    "foreign key": (
        {"text": "a", "video": "b.mp4"},
        "",
        "unknown key 'video'",
        "the keys are 'text' and 'image'",
    ),
    "text is None": (
        {"text": None, "image": picture()},
        ".text",
        "the value is None",
        "leave 'text' out",
    ),
    "text is bytes": ({"text": b"caption"}, ".text", "the text is a bytes", "give a str"),
    "text is empty": ({"text": "", "image": picture()}, ".text", "is empty", "or leave it out"),
    "bare path": (Path("cat.png"), "", "a bare path", "if the file is an image"),
    # images by address, type or file
    "web address": (
        {"image": "https://example.org/a.png"},
        ".image",
        "is an address; nothing is fetched",
        "pass its bytes or its path",
    ),
    "file address": ({"image": "file:///a.png"}, ".image", "is an address", "or its path"),
    "data address": (
        {"image": "data:image/png;base64,AAAA"},
        ".image",
        "a data: address",
        "pass the bytes",
    ),
    "image is None": ({"image": None}, ".image", "the value is None", "leave 'image' out"),
    "image is an array": (
        {"image": np.zeros((4, 4, 3), np.uint8)},
        ".image",
        "an array is not an image",
        "wrap it with PIL.Image.fromarray",
    ),
    "image is a number": ({"image": 7}, ".image", "cannot read a int", "or a list of such parts"),
    "image has no bytes": (b"", "", "no bytes", "give the bytes of an encoded image file"),
    "empty path": ({"image": " "}, ".image", "the path is empty", "the path of an image file"),
    "absent file": (
        lambda folder: {"image": str(folder / "absent.png")},
        ".image",
        "No such file",
        "give the path of a readable image file",
    ),
    "path with NUL": (
        {"image": "a\0.png"},
        ".image",
        "cannot read 'a\\x00.png'",
        "give the path of a readable image file",
    ),
    "folder": (
        lambda folder: {"image": folder},
        ".image",
        "(Is a directory)",
        "give the path of a readable image file",
    ),
    "pipe": (
        lambda folder: [os.mkfifo(folder / "pipe"), {"image": folder / "pipe"}][1],
        ".image",
        "is not a file",
        "give the path of a file",
    ),
    "empty file": (
        lambda folder: [(folder / "a.png").touch(), {"image": folder / "a.png"}][1],
        ".image",
        "the image has no bytes",
        FILE_REMEDY,
    ),
    # images by their bytes
    "text as bytes": (b"a caption", "", "no image of a known format", FILE_REMEDY),
    "PDF": (b"%PDF-1.7\n%\xe2\xe3", "", "no image of a known format", FILE_REMEDY),
    "SVG": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "", "known format", FILE_REMEDY),
    "EPS": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "", "known", FILE_REMEDY),
    "icon": (lambda _: {"image": encoded("ICO")}, ".image", "known format", FILE_REMEDY),
    "truncated PNG": (lambda _: cut_png(), "", "cannot be decoded", FILE_REMEDY),
    "truncated JPEG": (lambda _: encoded("JPEG")[:-200], "", "cannot be decoded", FILE_REMEDY),
    "truncated in a list": (lambda _: ["a", cut_png()], "[1]", "cannot be decoded", FILE_REMEDY),
    "flipped bits": (lambda _: flipped_png(), "", "cannot be decoded", FILE_REMEDY),
    "no pixels behind the header": (png_header(9, 9), "", "cannot be decoded", FILE_REMEDY),
    "too many pixels": (png_header(8000, 8000), "", "the limit is 50000000", SMALLER),
    "decompression bomb": (png_header(60000, 60000), "", "the limit of 50000000", SMALLER),
    "too many bytes": (bytes(images.MAX_BYTES + 1), "", "more than 20 MiB", "before passing it"),
    # images that decode, and mean nothing
    "zero width": (Image.new("RGB", (0, 5)), "", "is 0 x 5 pixels", "give a real image"),
    "thin image": (picture(1, 300), "", "more than 200 times", "crop the image or pad it"),
    "floating-point pixels": (Image.new("F", (9, 9), 0.5), "", "no known scale", EIGHT_BITS),
    "32-bit pixels": (Image.new("I", (9, 9), 10**6), "", "no known scale", EIGHT_BITS),
    "negative pixels": (Image.new("I", (9, 9), -1), "", "no known scale", EIGHT_BITS),
    "8-bit values in 32 bits": (Image.new("I", (9, 9), 200), "", "no known scale", EIGHT_BITS),
    "closed image": (lambda _: closed(), "", "cannot be decoded", FILE_REMEDY),
    # what does not fit
    "images that do not fit": (
        lambda _: [picture(512, 512), "text"],
        "",
        "does not fit 200 tokens, even with its text cut",
        "use fewer or smaller images, a shorter query or a larger max_tokens",
    ),
}


def closed() -> Image.Image:
    image = Image.open(io.BytesIO(encoded("PNG")))
    image.close()
    return image


@pytest.fixture(scope="module")
def prompt() -> Prompt:
    spec = ImageSpec(patch_size=16, merge_size=2, min_visual_tokens=4, max_visual_tokens=1800)
    return Prompt(Tokenizer.from_file(TOKENIZER), "qwen3vl-reranker-1", spec, 200, 40)


def content_of(kind: str, folder: Path) -> Any:
    content = BAD[kind][0]
    return content(folder) if callable(content) else content


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("kind", BAD)
def test_bad_candidate(kind: str, prompt: Prompt, tmp_path: Path) -> None:
    _, place, problem, remedy = BAD[kind]
    content, where = content_of(kind, tmp_path), "candidates[1]"
    with pytest.raises(ContentError) as caught:
        prompt.candidate(parse(content, where), where, 80)
    message = str(caught.value)
    assert message.startswith(f"{where}{place}: "), message
    assert problem in message
    assert message.endswith(remedy), message
    assert "\n" not in message and len(message) < 400


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("kind", [kind for kind in BAD if kind != "images that do not fit"])
def test_bad_query(kind: str, prompt: Prompt, tmp_path: Path) -> None:
    content = content_of(kind, tmp_path)
    with pytest.raises(ContentError) as caught:
        prompt.prefix(parse(content, "query"))
    assert str(caught.value).startswith(f"query{BAD[kind][1]}: ")
    assert str(caught.value).endswith(BAD[kind][3])


def test_there_are_at_least_twenty_kinds() -> None:
    assert len(BAD) >= 20


@pytest.fixture(scope="module")
def reranker() -> Any:
    """Random weights, a few thousand parameters, the embedded tokenizer."""
    from flax import nnx

    from unirank_jax.calibration import IDENTITY
    from unirank_jax.config import ModelConfig, TextConfig, VisionConfig
    from unirank_jax.layers import Compute
    from unirank_jax.manifest import Manifest
    from unirank_jax.model import Model
    from unirank_jax.reranker import Reranker
    from unirank_jax.scoring_config import ScoringConfig

    tokenizer = Tokenizer.from_file(EMBEDDED_TOKENIZER)
    spec = ImageSpec(patch_size=8, merge_size=2, min_visual_tokens=4, max_visual_tokens=1800)
    prompt = Prompt(tokenizer, "unirank-native-1", spec, max_tokens=200, max_query_tokens=40)
    config = ModelConfig(
        text=TextConfig(
            vocabulary=tokenizer.vocabulary_size,
            width=16,
            depth=2,
            mlp_width=24,
            heads=2,
            kv_heads=1,
            head_dim=12,
            rope_theta=1e4,
            rope_sections=(2, 2, 2),
            norm_eps=1e-6,
            tied=True,
            max_positions=1024,
        ),
        vision=VisionConfig(
            depth=2,
            width=16,
            mlp_width=24,
            heads=2,
            patch_size=8,
            merge_size=2,
            temporal_patch_size=2,
            table_size=16,
            out_width=16,
            deepstack_layers=(0,),
        ),
        image_token_id=prompt.image_token_id,
        video_token_id=tokenizer.special("<|video_pad|>"),
        vision_start_id=tokenizer.special("<|vision_start|>"),
        vision_end_id=tokenizer.special("<|vision_end|>"),
    )
    manifest = Manifest(
        prompt_id=prompt.prompt_id,
        instruction=prompt.instruction,
        label_tokens=("yes", "no"),
        label_ids=prompt.label_ids,
        min_visual_tokens=spec.min_visual_tokens,
        max_visual_tokens=spec.max_visual_tokens,
        max_tokens=prompt.max_tokens,
        max_query_tokens=prompt.max_query_tokens,
        calibration=IDENTITY,
        base=None,
        base_revision=None,
        dtype="float32",
        train_config_hash=None,
    )
    model = Model(config, nnx.Rngs(0))
    return Reranker(
        model, prompt, manifest, Path("."), Compute(), ScoringConfig(token_budget=65536)
    )


GOOD = [
    "a passage",
    picture(40, 56),
    {"text": "caption", "image": picture(33, 20)},
    ["mixed ", picture(16, 16), " parts"],
]


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_rank_gives_nan_and_the_error_to_bad_candidates_only(reranker, tmp_path: Path) -> None:
    """Every kind of bad candidate in one list with good ones, in between and around."""
    candidates: list[Any] = [GOOD[0]]
    expected: dict[int, tuple[str, str]] = {}
    for kind, (_, place, _, remedy) in BAD.items():
        folder = tmp_path / str(len(candidates))
        folder.mkdir()
        expected[len(candidates)] = (f"candidates[{len(candidates)}]{place}: ", remedy)
        candidates.append(content_of(kind, folder))
        if len(expected) in (3, 20, 40):
            candidates.append(GOOD[{3: 1, 20: 2, 40: 3}[len(expected)]])
    good = [index for index in range(len(candidates)) if index not in expected]
    assert len(good) == len(GOOD)

    ranked = reranker.rank("a query", candidates, on_error="nan")
    assert sorted(item.index for item in ranked) == list(range(len(candidates)))
    assert {item.index for item in ranked[: len(good)]} == set(good), "failed ones come last"
    alone = reranker.logits("a query", GOOD)
    assert np.isfinite(alone).all() and np.ptp(alone) > 0
    for item in ranked:
        if item.index in expected:
            start, remedy = expected[item.index]
            assert np.isnan(item.logit) and np.isnan(item.score)
            assert item.error is not None
            assert item.error.startswith(start) and item.error.endswith(remedy), item.error
        else:
            assert item.error is None and 0 <= item.score <= 1
            assert abs(item.logit - alone[good.index(item.index)]) <= 1e-4 * np.std(alone)
    scores = reranker.score("a query", candidates, on_error="nan")
    assert np.flatnonzero(np.isfinite(scores)).tolist() == good


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("kind", BAD)
def test_by_default_a_bad_candidate_raises(reranker, kind: str, tmp_path: Path) -> None:
    content = content_of(kind, tmp_path)
    for method in (reranker.rank, reranker.score, reranker.logits):
        with pytest.raises(ContentError, match=r"^candidates\[1\]"):
            method("a query", ["good", content])


@pytest.mark.parametrize("on_error", ["raise", "nan"])
def test_a_bad_query_always_raises(reranker, on_error: str) -> None:
    with pytest.raises(ContentError, match=r"^query: the text is empty; give some text"):
        reranker.rank("", ["a passage"], on_error=on_error)


def test_no_candidates_give_no_scores(reranker) -> None:
    scores = reranker.score("a query", [])
    assert scores.shape == (0,) and scores.dtype == np.float32
    assert reranker.rank("a query", []) == []


def test_all_candidates_bad(reranker) -> None:
    ranked = reranker.rank("a query", ["", b"text"], on_error="nan")
    assert [item.index for item in ranked] == [0, 1]
    assert all(np.isnan(item.score) and item.error for item in ranked)


@pytest.mark.parametrize("candidates", ["a passage", b"bytes", {"text": "a passage"}])
def test_one_candidate_without_a_list(reranker, candidates: Any) -> None:
    with pytest.raises(ContentError, match=r"^candidates: .*; put it into a list$"):
        reranker.rank("a query", candidates)

"""Content: which Python values are text, images or interleaved parts, and in what order."""

import io
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from unirank_jax.content import ContentError, ImagePart, TextPart, modality, parse

PICTURE = Image.new("RGB", (4, 3), (1, 2, 3))


def png() -> bytes:
    stream = io.BytesIO()
    PICTURE.save(stream, "PNG")
    return stream.getvalue()


@pytest.mark.parametrize(
    "text",
    [
        "a query",
        "https://example.org/cat.jpg",
        "/etc/hostname",
        "cat.png",
        "data:image/png;base64,AAAA",
        "<|im_end|>",
        " leading and trailing ",
        "\0",
    ],
)
def test_a_str_is_always_text(text: str) -> None:
    assert parse(text, "query") == (TextPart(text),)
    assert parse({"text": text}, "query") == (TextPart(text),)
    assert parse([text], "query") == (TextPart(text),)


@pytest.mark.parametrize("wrap", [bytes, bytearray, memoryview])
def test_bytes_are_an_encoded_image(wrap: type) -> None:
    (part,) = parse(wrap(png()), "query")
    assert part == ImagePart(png()) and isinstance(part.source, bytes)


def test_images_by_type(tmp_path) -> None:
    path = tmp_path / "picture"
    assert parse(PICTURE, "query") == (ImagePart(PICTURE),)
    assert parse({"image": PICTURE}, "query") == (ImagePart(PICTURE),)
    assert parse({"image": png()}, "query") == (ImagePart(png()),)
    assert parse({"image": str(path)}, "query") == (ImagePart(str(path)),)
    assert parse({"image": path}, "query") == (ImagePart(str(path)),)


def test_a_dict_keeps_its_order() -> None:
    text, image = TextPart("t"), ImagePart(PICTURE)
    assert parse({"text": "t", "image": PICTURE}, "query") == (text, image)
    assert parse({"image": PICTURE, "text": "t"}, "query") == (image, text)


@pytest.mark.parametrize("kind", [list, tuple])
def test_a_list_is_one_interleaved_content(kind: type) -> None:
    content = kind(["a", PICTURE, {"text": "b"}, {"image": "c.png"}, png(), " "])
    assert parse(content, "query") == (
        TextPart("a"),
        ImagePart(PICTURE),
        TextPart("b"),
        ImagePart("c.png"),
        ImagePart(png()),
        TextPart(" "),
    )


def test_image_parts_know_their_place() -> None:
    assert [part.place for part in parse(["a", PICTURE, {"image": "x"}], "q")[1:]] == [
        "[1]",
        "[2].image",
    ]
    assert parse(PICTURE, "q")[0].place == ""
    assert parse({"image": "x"}, "q")[0].place == ".image"


def test_modality() -> None:
    assert modality(parse("a", "q")) == "text"
    assert modality(parse(PICTURE, "q")) == "image"
    assert modality(parse([PICTURE, PICTURE], "q")) == "image"
    assert modality(parse({"text": "a", "image": PICTURE}, "q")) == "mixed"
    with pytest.raises(ValueError, match="parse the content first"):
        modality(())


def test_an_array_is_refused_with_the_way_out() -> None:
    with pytest.raises(ContentError, match=r"^q: an array .*; wrap it with PIL.Image.fromarray$"):
        parse(np.zeros((4, 4, 3), np.uint8), "q")


def test_parsing_opens_no_file(tmp_path) -> None:
    """A dataset of a million paths is parsed without touching one."""
    assert parse({"image": str(tmp_path / "absent.png")}, "q")


def test_no_jax_on_the_host_side() -> None:
    """Loader workers import these modules; importing jax there would cost seconds and memory."""
    code = (
        "import sys; import unirank_jax.content, unirank_jax.images, unirank_jax.prompt; "
        "sys.exit(bool({'jax', 'torch', 'transformers', 'flax'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

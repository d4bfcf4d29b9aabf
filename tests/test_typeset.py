"""Text drawn as pictures: the same everywhere, whole, and of the size that the rule gives."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unirank_jax.datasets import typeset as module
from unirank_jax.datasets.typeset import lay_out, spell, typeset, wrap
from unirank_jax.images import ImageSpec, smart_resize

SPEC = ImageSpec(12, 2, 16, 64)
WORDS = "the ring of benzene has six atoms and the mass is 78.1 g/mol (C6H6) ".split()
PROGRAM = """
import hashlib
from unirank_jax.datasets.typeset import typeset
from unirank_jax.images import ImageSpec
picture = typeset("2-(4-methylphenyl)ethan-1-amine: \\u03b2 form", [], ImageSpec(12, 2, 16, 64))
print(hashlib.sha256(picture.tobytes()).hexdigest(), picture.size)
"""


def text_of(characters: int) -> str:
    words = (WORDS * (characters // 20))[: characters // 4]
    return " ".join(words)[:characters].strip()


def test_the_same_bytes_in_every_process():
    root = Path(__file__).parent.parent
    printed = {
        subprocess.run(
            [sys.executable, "-c", PROGRAM],
            cwd=root,
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(root)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    picture = typeset("2-(4-methylphenyl)ethan-1-amine: β form", [], SPEC)
    own = hashlib.sha256(picture.tobytes()).hexdigest()
    assert printed == {f"{own} {picture.size}\n"}


@pytest.mark.parametrize("width", [40, 92, 190])
def test_lines_hold_the_whole_text_and_fit(width):
    text = text_of(300) + "\nN-(2-chloropyrimidin-4-yl)cyclopropanecarboxamide supercalifragilistic"
    lines = wrap(text, 12, width)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "").replace("\n", "")
    assert all(module._font(12).getlength(line) <= width + module.MARGIN for line in lines)
    assert all(line == line.strip() for line in lines)
    (first,) = (at for at, line in enumerate(lines) if line.startswith("N-"))
    assert lines[first - 1].endswith(text_of(300)[-3:]), "a new line of the text is one here"


def test_a_letter_that_is_wider_than_the_line_has_no_lines():
    assert wrap("W", 12, 5) is None


def test_pictures_grow_then_letters_shrink_then_nothing_is_cut():
    plans = {n: lay_out(text_of(n), [], SPEC) for n in (20, 60, 150, 300, 500, 800, 3000, 12000)}
    tokens = {n: plan.columns * plan.rows for n, plan in plans.items()}
    assert tokens[20] == tokens[60] == 16, "never under the smallest budget"
    assert 16 < tokens[150] < tokens[300] <= 64
    assert [plans[n].size for n in (20, 60, 150, 300)] == [12] * 4
    assert 6 <= plans[800].size < plans[500].size < 12
    assert tokens[500] <= 64 and tokens[800] <= 64
    assert plans[12000].size == 6 and tokens[12000] > 64, "too long: larger than the budget"
    for n, plan in plans.items():
        assert "".join(plan.lines).replace(" ", "") == text_of(n).replace(" ", "")
        assert max(plan.columns, plan.rows) <= 2 * min(plan.columns, plan.rows)


@pytest.mark.parametrize("spec", [SPEC, ImageSpec(16, 2, 4, 512), ImageSpec(4, 2, 1, 6)])
@pytest.mark.parametrize("characters", [1, 30, 90])
def test_a_picture_is_made_of_whole_visual_tokens_and_is_not_resized(spec, characters):
    picture = typeset("W" + text_of(characters), [], spec)
    assert (picture.height, picture.width) == smart_resize(picture.height, picture.width, spec)


def test_nothing_touches_the_edges_and_letters_are_black():
    pixels = np.asarray(typeset(text_of(400), [], SPEC))
    edges = (pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1])
    assert all((edge == 255).all() for edge in edges)
    assert pixels.min() < 60 and (pixels == pixels[..., :1]).all(), "grey, with black in it"


def test_images_stand_above_the_text_as_they_are():
    image = Image.effect_noise((96, 60), 90).convert("RGB")
    picture = np.asarray(typeset("Formula C6H6", [image], SPEC))
    np.testing.assert_array_equal(picture[:60, :96], np.asarray(image))
    assert picture[60:].min() < 100 and (picture[60:, :2] == 255).all()
    for size in ((1000, 100), (1000, 900), (60, 1000)):
        large = typeset("Formula", [Image.new("RGB", size, "red")], SPEC)
        assert large.width * large.height <= 1.5 * 64 * 24 * 24, "too large an image gets smaller"
        assert np.asarray(large)[..., 1].min() < 20, "red or black"


def test_what_the_font_lacks_is_spelled_or_named():
    assert spell("Åse é – “q” β-Carotene, ΔT ≤ 5\u00a0µm\u200b") == (
        "Ase e - “q” beta-Carotene, deltaT <= 5 mum",
        "",
    )
    assert spell("水 H2O 水 ☃") == (" H2O  ", "水☃")
    with pytest.raises(ValueError, match="the font has no '水'"):
        typeset("水", [], SPEC)

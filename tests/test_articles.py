"""Figures of articles: lines, captions and paragraphs, what is cut out, and the PDF itself."""

from __future__ import annotations

import io
import shutil

import numpy as np
import pytest
from made_articles import bbox_line, bbox_text, pdf, pdf_box, pdf_text
from PIL import Image, ImageDraw

from unirank_jax.datasets import articles, sources
from unirank_jax.datasets.dataset import SourceError
from unirank_jax.datasets.figure_regions import DPI, Sheet, find_region, longest_run, px
from unirank_jax.datasets.passages import around, mentions, without_references
from unirank_jax.datasets.pdf_layout import Line, Word, read_layout
from unirank_jax.datasets.pdf_text import captions, join_lines, paragraphs, section_titles

BODY = "the text of this article goes on over the whole width of the column for as long as it can"
LEFT = 72.0


def body(top: float, count: int = 1, left: float = LEFT) -> list[str]:
    return [bbox_line(left, top + 13 * number, BODY) for number in range(count)]


def layout_of(*pages: list[str]):
    """A layout with one more page that is all text, so that there is a column."""
    layout = read_layout(bbox_text(*pages, body(100, 20)))
    assert layout is not None
    return layout


def drawn(page, *boxes: tuple[float, float, float, float]) -> Sheet:
    """A page as a sheet, with words as grey bars and boxes (left, top, right, bottom) as lines."""
    image = Image.new("L", (px(page.width), px(page.height)), 255)
    draw = ImageDraw.Draw(image)
    for line in page.lines:
        for word in line.words:
            draw.rectangle([px(x) for x in (word.left, word.top, word.right, word.bottom)], fill=99)
    for left, top, right, bottom in boxes:
        draw.rectangle([px(left), px(top), px(right), px(bottom)], outline=0)
        draw.line([px(left), px(top), px(right), px(bottom)], fill=0)
    return Sheet.of(page, np.asarray(image))


def cut(layout, number: int, *boxes: tuple[float, float, float, float]):
    """The region of a caption in points, rounded, or None."""
    caption = list(captions(layout))[number]
    sheet = drawn(layout.pages[caption.page - 1], *boxes)
    box = find_region(layout, sheet, caption)
    if box is None:
        return None
    left, top, right, bottom = box
    return tuple(round(side * 72 / DPI) for side in (left, top, right - 1, bottom - 1))


# ---------------------------------------------------------------- words and lines


def test_captions_of_every_style_are_found_once():
    layout = layout_of(
        [
            bbox_line(100, 200, "Figure 1: A plot of counts, which goes"),
            bbox_line(100, 212, "on in a second line of the cap-"),
            bbox_line(100, 224, "tion of this figure."),
            *body(260),
            bbox_line(100, 300, "Fig. 2. Another plot of it"),
            bbox_line(100, 340, "TABLE A.3: Some numbers of the appendix"),
            bbox_line(100, 380, "Figure 3.4"),
            bbox_line(170, 380, "Output of the test"),
            bbox_line(100, 420, "Figure 7 shows nothing that counts as a caption"),
            *body(460),
            bbox_line(LEFT, 472, "Table 5. We then go on with the text of the article"),
            bbox_line(100, 520, "Figure 1: a second one of the same number"),
        ]
    )
    found = [(one.kind, one.number, one.text) for one in captions(layout)]
    assert found == [
        (
            "figure",
            "1",
            "A plot of counts, which goes on in a second line of the caption of this figure",
        ),
        ("figure", "2", "Another plot of it"),
        ("table", "A.3", "Some numbers of the appendix"),
        ("figure", "3.4", "Output of the test"),
    ]


def test_a_caption_that_runs_into_cells_is_known():
    cells = bbox_line(100, 212, "alpha 0.1 0.2 0.3", gap=40)
    layout = layout_of([bbox_line(100, 200, "Table 1: Numbers"), cells])
    (caption,) = captions(layout)
    assert caption.runs_on and caption.text == "Numbers"


def test_paragraphs_leave_out_captions_code_and_heads():
    layout = layout_of(
        [
            *body(100, 2),
            bbox_line(LEFT, 126, "and ends."),
            *body(150, 1, left=LEFT + 15),
            bbox_line(LEFT, 163, "after an indent."),
            bbox_line(LEFT, 190, "R> plot(x)"),
            bbox_line(LEFT, 220, "Figure 1: " + BODY),
        ]
    )
    found = [one.text for one in paragraphs(layout) if one.page == 1]
    assert found == [f"{BODY} {BODY} and ends.", f"{BODY} after an indent."]


def test_two_columns_are_read_one_after_the_other():
    words = "a line of one of the two narrow columns here"
    lines = [
        line
        for number in range(8)
        for line in (
            bbox_line(50, 100 + 13 * number, f"{words} left"),
            bbox_line(320, 100 + 13 * number, f"{words} right"),
        )
    ]
    layout = read_layout(bbox_text(lines))
    assert layout is not None and len(layout.columns) == 2
    texts = [one.text for one in paragraphs(layout)]
    assert len(texts) == 2 and "right" not in texts[0] and "left" not in texts[1]


def test_running_heads_are_rows_with_the_number_of_the_page():
    pages = [
        [bbox_line(100, 80, "Some Authors"), bbox_line(400, 80, f"{number + 3}"), *body(140, 9)]
        for number in range(4)
    ]
    layout = read_layout(bbox_text(*pages))
    assert layout is not None and layout.heads == {number: 100.0 for number in range(1, 5)}
    plain = read_layout(bbox_text(*[page[2:] for page in pages]))
    assert plain is not None and plain.heads == {}


def test_section_titles_lose_their_numbers():
    layout = layout_of(
        [bbox_line(LEFT, 90, "2.1 Data and models"), bbox_line(LEFT, 130, "3 x y"), *body(150, 3)]
    )
    assert [one.text for one in section_titles(layout)] == ["Data and models"]


def test_broken_output_is_refused():
    with pytest.raises(ValueError, match="no <doc>"):
        read_layout("Syntax Error")
    with pytest.raises(ValueError, match="not well formed"):
        read_layout("<doc><page></doc>")
    assert read_layout(bbox_text([bbox_line(9, 9, "a slide")])) is None
    assert read_layout(bbox_text([bbox_line(LEFT, 9 + n, "\x02 " + BODY) for n in range(6)]))


def test_hyphens_and_ligatures():
    assert join_lines(["a non-", "linear well-", "Known  case"]) == "a nonlinear well- Known case"
    assert Line((Word(0, 0, 9, 9, "e\ufb03cient"),)).text == "efficient"


# ---------------------------------------------------------------- passages


def test_mentions_are_named_with_kind_and_number():
    text = "See Figures 1, 2 and A.3, Fig. 4(b) and Table 5a; Figure ten, table top and 6."
    assert [pair[:2] for pair in mentions(text)] == [
        ("figure", "1"),
        ("figure", "2"),
        ("figure", "A.3"),
        ("figure", "4"),
        ("table", "5"),
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Counts rise (see Figure 3). They fall.", "Counts rise. They fall."),
        ("Counts rise [Fig. 3a], then fall", "Counts rise, then fall"),
        ("Figure 3 shows counts.", "The figure shows counts."),
        ("As in Figures 3 and 4, counts rise.", "As in the figures, counts rise."),
        ("counts (compare Tables 1-3) rise", "counts rise"),
        ("In Table 2.1 and in 7 others", "In the table and in 7 others"),
    ],
)
def test_references_are_taken_out(text, expected):
    assert without_references(text) == expected


def test_a_long_paragraph_is_cut_around_the_mention():
    first, second = "One sentence that comes before. ", "Here Figure 3 is spoken of. "
    text = "End of something. " * 40 + first + second + "And so it goes on. " * 40
    found = around(text, text.index("Figure"), 120)
    assert found.startswith(first + second.strip()) and len(found) <= 120
    assert found.endswith(".")
    assert around("word " * 300, 700, 100) == "word " * 19 + "word"
    assert around("rest of it. Then Figure 3.", 17) == "Then Figure 3."
    assert around("rest with Figure 3. Then.", 10) == "rest with Figure 3. Then."


# ---------------------------------------------------------------- regions


def test_a_figure_is_cut_between_the_text_and_its_caption():
    lines = [
        *body(100, 2),
        bbox_line(LEFT, 126, "with a short end."),
        bbox_line(LEFT, 150, "R> plot(x, y)"),
        bbox_line(LEFT, 163, "+ axis(1)"),
        bbox_line(110, 180, "1.5 2.5 printed"),
        bbox_line(LEFT, 205, "+ axis(2)"),
        bbox_line(200, 250, "label"),
        bbox_line(100, 420, "Figure 1: A plot"),
        *body(450),
    ]
    assert cut(layout_of(lines), 0, (150, 220, 400, 400)) == (150, 220, 400, 400)


def test_the_figure_above_counts_and_the_one_below_is_the_next_ones():
    lines = [bbox_line(100, 300, "Figure 1: First"), bbox_line(100, 600, "Figure 2: Second")]
    boxes = (150, 120, 400, 290), (120, 330, 450, 590)
    layout = layout_of(lines)
    assert cut(layout, 0, *boxes) == boxes[0]
    assert cut(layout, 1, *boxes) == boxes[1]
    assert cut(layout_of(lines[:1]), 0, boxes[1]) == boxes[1], "a caption above its figure"


def test_what_is_no_figure_is_not_cut():
    listing = [
        *body(100),
        bbox_line(100, 150, "R> summary(model)"),
        *[bbox_line(100, 170 + 13 * n, "Coefficients: 1 2 3") for n in range(12)],
        bbox_line(100, 340, "Figure 1: R output"),
    ]
    assert cut(layout_of(listing), 0) is None
    assert cut(layout_of(listing), 0, (90, 130, 400, 335)) is None, "a frame changes nothing"
    output = [*body(100), *listing[2:]]
    rules = (90, 160, 400, 160), (90, 335, 400, 335)
    assert cut(layout_of(output), 0, *rules) is None, "nor do rules"
    lines = [bbox_line(100, 420, "Figure 1: A plot")]
    assert cut(layout_of(lines), 0, (150, 380, 400, 410)) is None, "too low"
    assert cut(layout_of(lines), 0, (150, 100, 400, 200)) is None, "too far away"


def test_the_running_head_stays_outside():
    pages = [
        [bbox_line(100, 70, "Authors"), bbox_line(400, 70, str(number)), *body(300, 9)]
        for number in range(1, 5)
    ]
    pages[0] = [*pages[0][:2], bbox_line(100, 280, "Figure 1: A plot"), *body(300, 9)]
    layout = read_layout(bbox_text(*pages))
    assert cut(layout, 0, (150, 96, 400, 250)) == (150, 96, 400, 250)


def test_a_table_reaches_from_rule_to_rule():
    rows = [bbox_line(120, 150 + 15 * n, "alpha beta gamma", gap=40) for n in range(4)]
    lines = [*rows, bbox_line(100, 240, "Table 1: Numbers of it"), *body(300, 3)]
    layout = layout_of(lines)
    rules = (110, 140, 400, 140), (110, 215, 400, 215)
    assert cut(layout, 0, *rules) == (110, 140, 400, 215)
    assert cut(layout, 0) is None, "no rules, no table"
    run = layout_of([bbox_line(100, 136, "Table 1: Numbers of it"), *rows, *body(300, 3)])
    close = (110, 149, 400, 149), (110, 215, 400, 215)
    assert cut(run, 0, *close) is None, "its caption runs into the cells"
    above = layout_of([bbox_line(100, 120, "Table 1: Numbers of it"), *rows, *body(300, 3)])
    assert cut(above, 0, *rules) == (110, 140, 400, 215)


def test_longest_run_of_ink():
    row = np.zeros(220, bool)
    row[10:30] = row[100:210] = True
    assert longest_run(row) == 72.0
    assert longest_run(np.zeros(9, bool)) == 0.0


# ---------------------------------------------------------------- whole articles


def test_fields_of_a_figure_come_from_caption_paragraph_and_section():
    long = f"{BODY} and (see Figure 1) on. {BODY}."
    words = long.split()
    text = [bbox_line(LEFT, 500 + 13 * n, " ".join(words[17 * n : 17 * n + 17])) for n in range(3)]
    layout = layout_of(
        [
            bbox_line(LEFT, 60, "4 Results of counting"),
            bbox_line(100, 300, "Figure 1: Counts by year"),
            bbox_line(100, 450, "Figure 2: Nothing here"),
            *text,
        ]
    )
    asked = []

    def draw(page):
        asked.append(page.number)
        image = Image.new("RGB", (px(page.width), px(page.height)), "white")
        box = [px(x) for x in (150, 120, 400, 290)]
        ImageDraw.Draw(image).rectangle(box, outline="black")
        return image

    (found,) = articles.cut_figures(layout, draw)
    assert asked == [1], "a page is drawn once"
    assert found["caption"] == "Counts by year" and found["section"] == "Results of counting"
    assert found["passage"] == f"{BODY} and on. {BODY}."
    assert found["kind"] == "figure"
    with Image.open(io.BytesIO(found["image"])) as image:
        assert image.size == (96, 96)


poppler = pytest.mark.skipif(
    any(shutil.which(tool) is None for tool in articles.TOOLS),
    reason="poppler-utils is not installed",
)


@poppler
def test_a_pdf_is_read_and_cut(tmp_path):
    page = [pdf_text(LEFT, 500 + 13 * n, BODY) for n in range(6)]
    page[2] = pdf_text(LEFT, 526, f"as Figure 1 shows, {BODY}"[: len(BODY)])
    page += [pdf_box(150, 120, 250, 170), pdf_text(150, 310, "Figure 1: A made-up plot of counts")]
    path = tmp_path / "a.pdf"
    path.write_bytes(pdf(["\n".join(page)]))
    fonts = articles.font_settings(tmp_path, tmp_path)
    (found,) = articles.read_article((str(path), str(fonts)))
    assert found["caption"] == "A made-up plot of counts"
    assert "as the figure shows" in found["passage"]
    with Image.open(io.BytesIO(found["image"])) as image:
        grey = np.asarray(image.convert("L"))
    assert (grey[:12] > 240).all() and grey[48].min() < 200, "wider than high, on white"
    assert articles.read_article((str(path), str(fonts))) == [found]
    path.write_bytes(b"no PDF at all")
    with pytest.raises(SourceError, match="pdftotext .*failed"):
        articles.read_article((str(path), str(fonts)))


def test_missing_and_other_poppler_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(sources.shutil, "which", lambda _tool: None)
    with pytest.raises(SourceError) as caught:
        sources.preflight([], tmp_path, articles.TOOLS)
    assert "pdftoppm (package poppler-utils); pdftotext (package poppler-utils)" in str(
        caught.value
    )

    class Said:
        stdout, stderr = "", "pdftotext version 99.1.0\nCopyright"

    monkeypatch.setattr(articles.subprocess, "run", lambda *_arguments, **_options: Said)
    with pytest.raises(SourceError, match="version 99.1.0.* defined by poppler 22.12"):
        articles.check_poppler()
    Said.stderr = "pdftotext version 22.12.0"
    articles.check_poppler()

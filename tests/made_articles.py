"""Made-up articles: the XHTML of `pdftotext -bbox-layout`, and a PDF with text and rectangles."""

from __future__ import annotations

from html import escape

PITCH, SIZE, ADVANCE = 13.0, 10.0, 5.0  # points: from line to line, of the font, per character
WIDTH, HEIGHT = 595.0, 842.0


def bbox_line(left: float, top: float, text: str, gap: float = 5.0) -> str:
    """One line of words at a place; `gap` is the space between words in points."""
    words, x = [], left
    for word in text.split():
        right = x + ADVANCE * len(word)
        words.append(
            f'<word xMin="{x}" yMin="{top}" xMax="{right}" yMax="{top + SIZE}">'
            f"{escape(word)}</word>"
        )
        x = right + gap
    return f'<block><line xMin="{left}" yMin="{top}">{"".join(words)}</line></block>'


def bbox_text(*pages: list[str]) -> str:
    """What pdftotext would write for pages of lines."""
    body = "".join(
        f'<page width="{WIDTH}" height="{HEIGHT}"><flow>{"".join(lines)}</flow></page>'
        for lines in pages
    )
    return f"<!DOCTYPE html><html><head><title>a & b</title></head><body><doc>{body}</doc></html>"


def pdf(pages: list[str]) -> bytes:
    """A PDF of pages whose content streams are given; /F1 is Helvetica."""
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Count {len(pages)} /Kids "
        f"[{' '.join(f'{4 + 2 * number} 0 R' for number in range(len(pages)))}] >>",
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    for number, content in enumerate(pages):
        objects.append(
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 {WIDTH} {HEIGHT}] /Contents "
            f"{5 + 2 * number} 0 R /Resources << /Font << /F1 3 0 R >> >> >>"
        )
        objects.append(f"<< /Length {len(content)} >>\nstream\n{content}\nendstream")
    data, places = b"%PDF-1.4\n", []
    for number, one in enumerate(objects, start=1):
        places.append(len(data))
        data += f"{number} 0 obj\n{one}\nendobj\n".encode("latin-1")
    table = "".join(f"{place:010d} 00000 n \n" for place in places)
    return data + (
        f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n{table}"
        f"trailer << /Size {len(objects) + 1} /Root 1 0 R >>\nstartxref\n{len(data)}\n%%EOF\n"
    ).encode("latin-1")


def pdf_text(left: float, top: float, text: str) -> str:
    """A line of a content stream, `top` from the upper edge of the page."""
    safe = text.replace("\\", "\\\\").replace("(", "\\(").replace(")", "\\)")
    return f"BT /F1 10 Tf {left} {HEIGHT - top - SIZE} Td ({safe}) Tj ET"


def pdf_box(left: float, top: float, width: float, height: float) -> str:
    """An empty rectangle and one of its diagonals."""
    low = HEIGHT - top - height
    return f"{left} {low} {width} {height} re S {left} {low} m {left + width} {low + height} l S"

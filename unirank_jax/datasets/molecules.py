"""Real molecules as data: names and identifiers from the `chemicals` package, drawings by RDKit.

Names, CAS numbers, formulas and structures are real (compiled from PubChem, MIT licence);
the depiction, the card's sentence frame and the choice of the synonym are ours.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from PIL import Image

from unirank_jax.content import ImagePart, TextPart, modality
from unirank_jax.datasets.dataset import SourceError
from unirank_jax.datasets.pictures import cached_pictures
from unirank_jax.datasets.records import Item, dup_id_of, hash_number, normalized_text

SOURCE = "chemicals"
LICENCE = "MIT"
PINNED_VERSION = "1.5.2"
DRAWING_PIXELS = 96
DRAWING_VERSION = 1  # of the code that draws: a new one makes the cache start anew
COLOURS = 16
MIN_HEAVY_ATOMS, MAX_HEAVY_ATOMS = 3, 14
MAX_SYNONYM_CHARACTERS = 60
# A synonym with less overlap than this is a trade name that says nothing about the structure.
MIN_SYNONYM_OVERLAP = 0.05
MIXED_SHARE = 3  # one molecule in so many has an item that holds drawing and text together

# Catalogue numbers, not names: "stk366316", "schembl 12", hexadecimal identifiers.
_CATALOGUE = re.compile(
    r"^[a-z]{1,9}[- ]?\d{3,}|\d{5,}|[0-9a-f]{8}-[0-9a-f]{4}|unii|einecs|schembl|chembl|dtxsid|"
    r"akos|chebi|mfcd|zinc|reagent|standard|certified|analytical|grade|inverted|  |[%;:?]|"
    r"\bfema\b|\busp\b"
)


@dataclass(frozen=True)
class Molecule:
    """One row of the table: names lower case as in PubChem, mass in g/mol."""

    number: str
    cas: str
    formula: str
    mass: float
    smiles: str
    skeleton: str
    name: str
    synonym: str | None

    @property
    def unit_id(self) -> str:
        return f"m{self.number}"


def read_molecules() -> list[Molecule]:
    """The usable rows in table order: one fragment, 3 to 14 heavy atoms, carbon first.

    Rows whose name, unlike their structure, occurs twice are dropped: nothing could tell
    which of the two drawings a name asks for.
    """
    spec = find_spec("chemicals")
    if spec is None or spec.origin is None:
        raise SourceError(
            f"package `chemicals` is missing; pip install chemicals=={PINNED_VERSION}"
        )
    if version("chemicals") != PINNED_VERSION:
        raise SourceError(
            f"package `chemicals` is {version('chemicals')}, the data is defined by "
            f"{PINNED_VERSION}; pip install chemicals=={PINNED_VERSION}"
        )
    table = Path(spec.origin).parent / "Identifiers" / "chemical identifiers pubchem large.tsv"
    molecules: list[Molecule] = []
    with open(table, encoding="utf-8", newline="") as lines:
        for row in csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE):
            if len(row) < 8 or not row[4] or not row[7] or "." in row[4]:
                continue
            if not row[2].startswith("C") or not re.match(r"C(?![a-z])", row[2]):
                continue
            if not MIN_HEAVY_ATOMS <= heavy_atoms(row[2]) <= MAX_HEAVY_ATOMS:
                continue
            molecules.append(
                Molecule(
                    number=row[0],
                    cas=row[1],
                    formula=row[2],
                    mass=float(row[3]),
                    smiles=row[4],
                    skeleton=row[6][:14],
                    name=row[7],
                    synonym=choose_synonym(row[7], row[8:]),
                )
            )
    seen: dict[str, int] = {}
    for molecule in molecules:
        key = normalized_text(molecule.name)
        seen[key] = seen.get(key, 0) + 1
    return [molecule for molecule in molecules if seen[normalized_text(molecule.name)] == 1]


def heavy_atoms(formula: str) -> int:
    """Atoms other than hydrogen in a formula such as C7H9N5."""
    counts = re.findall(r"([A-Z][a-z]?)(\d*)", formula)
    return sum(int(number or 1) for element, number in counts if element != "H")


def choose_synonym(name: str, synonyms: Iterable[str]) -> str | None:
    """The name-like synonym least like `name` that still shares something with it."""
    reference = _trigrams(name)
    scored: list[tuple[float, str]] = []
    for synonym in synonyms:
        letters = re.sub(r"[^a-z]", "", synonym.lower())
        if (
            len(synonym) > MAX_SYNONYM_CHARACTERS
            or not re.search(r"[a-z]{5}", synonym)
            or not re.search(r"[aeiouy]", letters)
            or _CATALOGUE.search(synonym.lower())
            or letters == re.sub(r"[^a-z]", "", name.lower())
        ):
            continue
        grams = _trigrams(synonym)
        scored.append((len(grams & reference) / max(1, len(grams | reference)), synonym))
    if not scored:
        return None
    telling = [pair for pair in scored if pair[0] >= MIN_SYNONYM_OVERLAP]
    return min(telling or scored)[1]


def draw_molecule(smiles: str) -> bytes | None:
    """A structure drawing as PNG (96 x 96, 16 colours); None where RDKit cannot read it.

    Atoms have RDKit's customary colours (oxygen red, nitrogen blue, ...).
    """
    from rdkit import Chem, rdBase
    from rdkit.Chem.Draw import rdMolDraw2D

    rdBase.DisableLog("rdApp.*")
    structure = Chem.MolFromSmiles(smiles)
    if structure is None:
        return None
    canvas = rdMolDraw2D.MolDraw2DCairo(DRAWING_PIXELS, DRAWING_PIXELS)
    options: Any = canvas.drawOptions()
    options.bondLineWidth = 1.2
    options.minFontSize = 9
    options.padding = 0.06
    rdMolDraw2D.PrepareAndDrawMolecule(canvas, structure)
    canvas.FinishDrawing()
    with Image.open(io.BytesIO(canvas.GetDrawingText())) as drawing:
        colours = drawing.convert("RGB")
    indexed = colours.quantize(COLOURS, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    buffer = io.BytesIO()
    indexed.save(buffer, format="PNG", bits=4, optimize=True)
    return buffer.getvalue()


def draw_molecules(molecules: list[Molecule], raw: Path, processes: int) -> list[bytes | None]:
    """The drawings of all molecules in order, from the cache under `raw` or made now."""
    try:
        drawn_by = version("rdkit")
    except PackageNotFoundError:
        raise SourceError("package `rdkit` is missing; pip install unirank-jax[data]") from None
    name = f"molecules-{PINNED_VERSION}-rdkit-{drawn_by}-{DRAWING_VERSION}.msgpack"
    wanted = {molecule.number: molecule.smiles for molecule in molecules}
    drawn = cached_pictures(raw / "rendered" / name, wanted, draw_molecule, processes)
    return [drawn[molecule.number] for molecule in molecules]


def molecule_items(molecule: Molecule, drawing: bytes) -> list[Item]:
    """Drawing, name and card of a molecule, and for one in three the drawing with a short text."""

    def item(kind: str, suffix: str, *contents: str | bytes) -> Item:
        parts = tuple(TextPart(x) if isinstance(x, str) else ImagePart(x) for x in contents)
        return Item(
            did=f"{molecule.unit_id}.{suffix}",
            parts=parts,
            modality=modality(parts),
            unit_id=molecule.unit_id,
            family=molecule.formula,
            kind=kind,
            split_id=molecule.skeleton,
            dup_id=dup_id_of(*contents),
            source=SOURCE,
            licence=LICENCE,
        )

    items = [
        item("drawing", "d", drawing),
        item("name", "n", molecule.name),
        item("card", "c", card_text(molecule)),
    ]
    if hash_number(molecule.unit_id, "mixed") % MIXED_SHARE == 0:
        label = f"Formula {molecule.formula}, molar mass {molecule.mass:.1f} g/mol."
        items.append(item("mixed", "x", drawing, label))
    return items


def card_text(molecule: Molecule) -> str:
    """A sentence about a molecule without its systematic name; half of them lack the formula."""
    title = f"{molecule.synonym}. " if molecule.synonym else ""
    text = f"{title}CAS {molecule.cas}, molar mass {molecule.mass:.1f} g/mol"
    if molecule.synonym is None or hash_number(molecule.unit_id, "formula") % 2 == 0:
        text += f", formula {molecule.formula}"
    return text + "."


def stand_in_text(molecule: Molecule) -> str | None:
    """What may stand for a drawing where a reader sees texts only: nothing that names it.

    None where RDKit cannot read the structure, which then has no drawing either.
    """
    from rdkit import Chem, rdBase

    rdBase.DisableLog("rdApp.*")
    structure = Chem.MolFromSmiles(molecule.smiles)
    if structure is None:
        return None
    rings = structure.GetRingInfo().NumRings()
    return f"Formula {molecule.formula}, molar mass {molecule.mass:.1f} g/mol, rings: {rings}."


def _trigrams(text: str) -> set[str]:
    letters = re.sub(r"[^a-z]", "", text.lower())
    return {letters[start : start + 3] for start in range(len(letters) - 2)}

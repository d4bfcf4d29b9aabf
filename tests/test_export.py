"""One export, four readers: transformers, sentence-transformers, PEFT and ours agree."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import torch
from flax import nnx
from parity_models import exact_arithmetic, pack_pairs, random_torch_model, tiny_config
from PIL import Image
from safetensors.numpy import load_file

from benchmarks import torchvision_ops
from unirank_jax import export, lora
from unirank_jax.batch import Batch
from unirank_jax.calibration import Calibration
from unirank_jax.content import parse
from unirank_jax.export import adapter_tensors, save_adapter, save_pretrained
from unirank_jax.export_files import (
    chat_template,
    write_json,
    write_processors,
    write_tokenizer,
)
from unirank_jax.hub import WeightsError
from unirank_jax.images import ImageSpec
from unirank_jax.keys import flatten
from unirank_jax.layers import Compute
from unirank_jax.manifest import Manifest, ManifestError
from unirank_jax.model import Model, score
from unirank_jax.model_card import Card, render
from unirank_jax.prompt import DOCUMENT_FIRST, PROMPT_IDS, Prompt
from unirank_jax.tokenizer import Tokenizer
from unirank_jax.weights import load_model

assert torchvision_ops.declare(), "pip install --no-deps torchvision==0.28.0"
from peft import PeftModel  # noqa: E402
from sentence_transformers import CrossEncoder  # noqa: E402
from transformers import AutoProcessor, Qwen3VLForConditionalGeneration  # noqa: E402

TOLERANCE = 1e-4  # absolute, on logits with a standard deviation of at least 2
TOKENIZER = Path(export.__file__).parent / "assets" / "tokenizer"
INSTRUCTION = 'Find the "best" {{ answer }}\nto the query.'


@pytest.fixture(autouse=True)
def exact() -> Iterator[None]:
    with exact_arithmetic():
        yield


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(TOKENIZER)


def manifest_for(tokenizer: Tokenizer, prompt_id: str = "unirank-native-1") -> Manifest:
    return Manifest(
        prompt_id=prompt_id,
        instruction=INSTRUCTION,
        label_tokens=("yes", "no"),
        label_ids=(tokenizer.single("yes"), tokenizer.single("no")),
        min_visual_tokens=1,
        max_visual_tokens=64,
        max_tokens=1024,
        max_query_tokens=256,
        calibration=Calibration(bias=0.5, temperature=2.0, fit_on="valid"),
        base="owner/base",
        base_revision="abc",
        dtype="float32",
        train_config_hash="123",
    )


def card_text(manifest: Manifest, adapter_of: str | None = None) -> str:
    card = Card(
        name="tiny",
        licence="Apache-2.0",
        summary="A random model of the tests.",
        parameters=12345,
        modalities=("text", "image"),
        training={"loss": "bce | rcr"},
        data=["none"],
        results="",
        limits=["everything"],
        adapter_of=adapter_of,
    )
    return render(card, manifest)


def some_pairs() -> list[tuple[Any, Any]]:
    """32 pairs of all mixtures; image sides are multiples of 8 = patch * merge, so none resizes."""
    random = np.random.default_rng(5)

    def image() -> Image.Image:
        height, width = 8 * random.integers(1, 5, 2)
        return Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8))

    vocabulary = 'benzene ring "(2R)" figure -> 3.5 mg über Säure 图 acid: yes no'.split()

    def text() -> str:
        return " ".join(random.choice(vocabulary, random.integers(1, 12)))

    def content(kind: int) -> Any:
        if kind == 0:
            return text()
        if kind == 1:
            return image()
        if kind == 2:
            return {"image": image(), "text": text()}
        return {"text": text(), "image": image()}

    return [(content(a), content(b)) for a in range(4) for b in range(4) for _ in range(2)]


def encode(tokenizer: Tokenizer, manifest: Manifest, pairs: list[tuple[Any, Any]]) -> list[Any]:
    spec = ImageSpec(4, 2, manifest.min_visual_tokens, manifest.max_visual_tokens)
    prompt = Prompt(
        tokenizer,
        manifest.prompt_id,
        spec,
        manifest.max_tokens,
        manifest.max_query_tokens,
        manifest.label_tokens,
        manifest.instruction,
    )
    out = []
    for query, document in pairs:
        if prompt.document_first:
            first = prompt.candidate(parse(document, "document"), "document", 0)
            tokens = np.concatenate([prompt.static().tokens, first.tokens])
            out.append(
                (dataclasses.replace(first, tokens=tokens), prompt.query(parse(query, "query")))
            )
            continue
        prefix = prompt.prefix(parse(query, "query"))
        candidate = prompt.candidate(parse(document, "document"), "document", len(prefix.tokens))
        out.append((prefix, candidate))
    return out


@partial(jax.jit, static_argnums=(0, 3))
def compiled_score(graph: Any, state: Any, batch: Batch, label_ids: tuple[int, int]) -> jax.Array:
    return score(nnx.merge(graph, state), batch, label_ids, Compute())


def our_scores(
    model: Model, tokenizer: Tokenizer, manifest: Manifest, pairs: list[tuple[Any, Any]]
) -> np.ndarray:
    batch = pack_pairs(model.config, encode(tokenizer, manifest, pairs), shared=True)
    found = compiled_score(*nnx.split(model), batch, manifest.label_ids)
    return np.asarray(found)[0, : len(pairs)]


@pytest.fixture(scope="module")
def pairs() -> list[tuple[Any, Any]]:
    return some_pairs()


def settled_model(tied: bool, folder: Path, tokenizer: Tokenizer, pairs: list[Any]) -> Model:
    """A random model of the embedded tokenizer's vocabulary, its label rows scaled."""
    shape = tiny_config(tied=tied)
    text = dataclasses.replace(shape.text, vocabulary=tokenizer.vocabulary_size)
    config = dataclasses.replace(
        shape,
        text=text,
        image_token_id=tokenizer.special("<|image_pad|>"),
        video_token_id=tokenizer.special("<|video_pad|>"),
        vision_start_id=tokenizer.special("<|vision_start|>"),
        vision_end_id=tokenizer.special("<|vision_end|>"),
    )
    random_torch_model(config, settle=False).save_pretrained(folder)
    made = load_model(folder)
    manifest = manifest_for(tokenizer)
    table = (made.text.embed if made.head is None else made.head).table
    rows = jnp.array(manifest.label_ids)
    for _ in range(3):
        with exact_arithmetic():
            spread = our_scores(made, tokenizer, manifest, pairs).std()
        if spread >= 2:
            return made
        table[...] = table[...].at[rows].multiply(2.5 / spread)
    raise AssertionError(spread)


@pytest.fixture(scope="module")
def model(
    tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer, pairs: list[tuple[Any, Any]]
) -> Model:
    return settled_model(True, tmp_path_factory.mktemp("random"), tokenizer, pairs)


@pytest.fixture(scope="module")
def adapted(model: Model) -> Model:
    made = nnx.clone(model)
    lora.add(made, 3, 6.0, lora.DECODER_LINEAR, nnx.Rngs(1))
    for layer in lora.dense_layers(made).values():  # B starts at zero: make it matter
        if layer.lora_b is not None:
            noise = np.random.default_rng(2).normal(size=layer.lora_b[...].shape)
            layer.lora_b[...] = jnp.asarray(0.1 * noise, jnp.float32)
    return made


def save(model: Model, folder: Path, manifest: Manifest, **options: Any) -> Path:
    options = {"dtype": np.float32, **options}
    return save_pretrained(folder, model, manifest, TOKENIZER, card_text(manifest), **options)


def largest(found: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference of two sets of logits, printed for the record (pytest -rP)."""
    difference = float(np.abs(found - expected).max())
    print(f"largest difference of a logit: {difference:.1e}")
    return difference


def check_full_export(
    model: Model, tokenizer: Tokenizer, pairs: list[tuple[Any, Any]], out: Path
) -> None:
    manifest = manifest_for(tokenizer)
    folder = save(model, out, manifest)
    expected = our_scores(model, tokenizer, manifest, pairs)
    assert expected.std() >= 2
    again = our_scores(load_model(folder), tokenizer, Manifest.read(folder), pairs)
    assert np.array_equal(again, expected)
    assert largest(transformers_scores(folder, manifest, pairs), expected) < TOLERANCE
    encoder = CrossEncoder(str(folder))
    assert largest(encoder.predict(pairs), expected) < TOLERANCE
    assert encoder.supports("image")


def test_full_export_scores_the_same_everywhere(
    model: Model, tokenizer: Tokenizer, pairs: list[tuple[Any, Any]], tmp_path: Path
) -> None:
    check_full_export(model, tokenizer, pairs, tmp_path / "full")


def test_untied_export_scores_the_same_everywhere(
    tokenizer: Tokenizer, pairs: list[tuple[Any, Any]], tmp_path: Path
) -> None:
    untied = settled_model(False, tmp_path / "random", tokenizer, pairs)
    check_full_export(untied, tokenizer, pairs, tmp_path / "full")


def transformers_scores(
    folder: Path, manifest: Manifest, pairs: list[tuple[Any, Any]], model: Any = None
) -> np.ndarray:
    """Scores through transformers alone: its processor, the template, its strict loading."""
    if model is None:
        model, report = Qwen3VLForConditionalGeneration.from_pretrained(
            folder, output_loading_info=True
        )
        assert not any(report.values()), report
    processor = AutoProcessor.from_pretrained(folder)
    out = []
    for pair in pairs:
        messages = [message(*side) for side in zip(("query", "document"), pair, strict=True)]
        inputs = processor.apply_chat_template(
            messages, tokenize=True, return_dict=True, return_tensors="pt"
        )
        with torch.no_grad():
            last = model(**inputs, logits_to_keep=1).logits[0, -1]
        out.append(float(last[manifest.label_ids[0]] - last[manifest.label_ids[1]]))
    return np.array(out)


def message(role: str, content: Any) -> dict[str, Any]:
    """One side of a pair as a chat message."""
    if isinstance(content, str):
        content = {"text": content}
    if isinstance(content, Image.Image):
        content = {"image": content}
    parts = content.items() if isinstance(content, dict) else content
    return {"role": role, "content": [{"type": kind, kind: value} for kind, value in parts]}


def test_merged_adapters_score_the_same_everywhere(
    model: Model,
    adapted: Model,
    tokenizer: Tokenizer,
    pairs: list[tuple[Any, Any]],
    tmp_path: Path,
) -> None:
    manifest = manifest_for(tokenizer)
    expected = our_scores(adapted, tokenizer, manifest, pairs)
    moved = np.abs(expected - our_scores(model, tokenizer, manifest, pairs)).max()
    assert moved > 0.1  # the adapters matter
    folder = save(adapted, tmp_path / "merged", manifest)
    assert any(x.lora_a is not None for x in lora.dense_layers(adapted).values())  # untouched
    assert largest(CrossEncoder(str(folder)).predict(pairs), expected) < TOLERANCE
    assert largest(transformers_scores(folder, manifest, pairs), expected) < TOLERANCE
    merged = our_scores(load_model(folder), tokenizer, manifest, pairs)
    assert largest(merged, expected) < TOLERANCE


def test_peft_loads_the_adapter(
    model: Model,
    adapted: Model,
    tokenizer: Tokenizer,
    pairs: list[tuple[Any, Any]],
    tmp_path: Path,
) -> None:
    manifest = manifest_for(tokenizer)
    expected = our_scores(adapted, tokenizer, manifest, pairs)
    base = save(model, tmp_path / "base", manifest)
    card = card_text(manifest, adapter_of=str(base))
    folder = save_adapter(tmp_path / "adapter", adapted, str(base), manifest, card)
    loaded = PeftModel.from_pretrained(
        Qwen3VLForConditionalGeneration.from_pretrained(base), folder
    )
    written = load_file(folder / export.ADAPTER_FILE)
    theirs = {key.replace(".default", "") for key, _ in loaded.named_parameters() if "lora_" in key}
    assert theirs == set(written)
    found = transformers_scores(base, manifest, pairs, model=loaded.eval())
    assert largest(found, expected) < TOLERANCE
    encoder = CrossEncoder(str(base))
    encoder[0].model = loaded.merge_and_unload()
    assert largest(encoder.predict(pairs), expected) < TOLERANCE


@pytest.mark.parametrize("prompt_id", PROMPT_IDS)
def test_template_renders_the_bytes_of_the_prompt(
    tokenizer: Tokenizer, pairs: list[tuple[Any, Any]], prompt_id: str, tmp_path: Path
) -> None:
    """Any order of parts, several images, another instruction: one string, and one id list."""
    manifest = manifest_for(tokenizer, prompt_id)
    write_tokenizer(tmp_path, TOKENIZER, manifest)
    write_processors(tmp_path, tiny_config(), manifest)
    write_json(tmp_path / "config.json", tiny_config().to_hf())
    processor = AutoProcessor.from_pretrained(tmp_path)
    random = np.random.default_rng(0)
    one, two = (
        Image.fromarray(random.integers(0, 256, (*size, 3), dtype=np.uint8))
        for size in ((16, 24), (40, 8))
    )
    mixed = [("text", "a "), ("image", one), ("text", "b"), ("text", " c\n"), ("image", two)]
    listed = [part if kind == "text" else {"image": part} for kind, part in mixed]
    cases = [(*pair, pair) for pair in pairs] + [(listed, "x", (mixed, "x"))]
    for query, document, given in cases:
        messages = [message(*side) for side in zip(("query", "document"), given, strict=True)]
        if prompt_id == DOCUMENT_FIRST:
            messages.reverse()  # pictures are matched in the order of messages
        inputs = processor.apply_chat_template(messages, tokenize=True, return_dict=True)
        [(prefix, candidate)] = encode(tokenizer, manifest, [(query, document)])
        ours = np.concatenate([prefix.tokens, candidate.tokens])
        assert inputs["input_ids"][0] == ours.tolist()
    messages = [message("system", "Other."), message("query", "q"), message("document", "d")]
    text = processor.apply_chat_template(messages, tokenize=False)
    if prompt_id == DOCUMENT_FIRST:
        sides = [message("query", [("image", one)]), message("document", [("image", two)])]
        with pytest.raises(Exception, match="the document's message goes before the query's"):
            processor.apply_chat_template(sides, tokenize=False)
        assert "<Document>:d\n<Instruct>: Other.\n<Query>:q<|im_end|>\n" in text
    else:
        assert "<Instruct>: Other.<Query>:q\n<Document>:d<|im_end|>\n" in text
    assert text.endswith("<|im_start|>assistant\n") and INSTRUCTION not in text
    assert "raise_exception" in chat_template(tokenizer, manifest)


def test_cross_encoder_takes_another_instruction_and_messages(
    model: Model, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    """`prompt=` is the instruction; a list of parts goes as messages."""
    manifest = manifest_for(tokenizer)
    encoder = CrossEncoder(str(save(model, tmp_path / "m", manifest)))
    other = dataclasses.replace(manifest, instruction="Other.")
    found = encoder.predict([("q", "d")], prompt="Other.")
    assert np.abs(found - our_scores(model, tokenizer, other, [("q", "d")])).max() < TOLERANCE
    picture = Image.fromarray(np.full((8, 16, 3), 77, np.uint8))
    parts = [("text", "see "), ("image", picture), ("text", " there")]
    found = encoder.predict([[message("query", "q"), message("document", parts)]])
    listed = ["see ", picture, " there"]
    expected = our_scores(model, tokenizer, manifest, [("q", listed)])
    assert largest(found, expected) < TOLERANCE


def test_bfloat16_export_is_the_rounded_model(
    model: Model, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    folder = save(model, tmp_path / "half", manifest_for(tokenizer), dtype=ml_dtypes.bfloat16)
    assert json.loads((folder / "config.json").read_text())["dtype"] == "bfloat16"
    assert Manifest.read(folder).dtype == "bfloat16"
    loaded = flatten(load_model(folder))
    for path, leaf in flatten(model).items():
        assert np.array_equal(loaded[path], np.asarray(leaf).astype(ml_dtypes.bfloat16)), path


def test_folder_is_whole_or_absent(
    model: Model, tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = manifest_for(tokenizer)
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "note").write_text("mine")
    with pytest.raises(WeightsError, match="not empty"):
        save(model, tmp_path / "used", manifest)
    assert (tmp_path / "used" / "note").read_text() == "mine"

    def lossy(path: Path, shapes: dict[str, tuple[int, ...]], *rest: Any) -> None:
        shapes = dict(shapes)
        del shapes["model.visual.merger.norm.bias"]
        real(path, shapes, *rest)

    from unirank_jax import weights

    real = weights.write_tensors
    monkeypatch.setattr(weights, "write_tensors", lossy)
    with pytest.raises(WeightsError, match=r"missing: model\.visual\.merger\.norm\.bias"):
        save(model, tmp_path / "lost", manifest)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["used"]


def test_adapters_cannot_get_lost(
    model: Model, adapted: Model, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    with pytest.raises(WeightsError, match="no adapters"):
        adapter_tensors(model)
    tensors, rank, alpha = adapter_tensors(adapted)
    layers = model.config.text.depth * 7
    assert (len(tensors), rank, alpha) == (2 * layers, 3, 6.0)

    def lossy(tensors: dict[str, np.ndarray], *rest: Any, **options: Any) -> None:
        real(dict(list(tensors.items())[1:]), *rest, **options)

    real = export.save_file
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "save_file", lossy)
        with pytest.raises(WeightsError, match="does not hold every adapter"):
            save_adapter(tmp_path / "a", adapted, "base", manifest_for(tokenizer), "")
    assert not list(tmp_path.iterdir())


def test_manifest_round_trip_and_errors(tokenizer: Tokenizer, tmp_path: Path) -> None:
    manifest = manifest_for(tokenizer)
    manifest.write(tmp_path)
    assert Manifest.read(tmp_path) == manifest
    raw = json.loads((tmp_path / "unirank.json").read_text())
    assert raw["format"] == 1 and raw["calibration"]["fit_on"] == "valid"
    raw["promt_id"] = raw.pop("prompt_id")
    raw["calibration"].pop("bias")
    with pytest.raises(ManifestError) as caught:
        Manifest.from_json(raw)
    message = str(caught.value)
    assert "prompt_id is missing" in message and "calibration.bias is missing" in message
    assert "promt_id is unknown (did you mean 'prompt_id'?)" in message
    with pytest.raises(ManifestError, match="format is 2"):
        Manifest.from_json({**manifest.to_json(), "format": 2})
    with pytest.raises(ManifestError, match="'other' is unknown"):
        dataclasses.replace(manifest, prompt_id="other")


def test_a_published_folder_has_the_published_settings(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes((TOKENIZER / "tokenizer.json").read_bytes())
    (tmp_path / "config.json").write_text(json.dumps({"torch_dtype": "bfloat16"}))
    found = Manifest.read(tmp_path)
    assert found.prompt_id == "qwen3vl-reranker-1" and found.dtype == "bfloat16"
    assert (found.min_visual_tokens, found.max_visual_tokens) == (4, 1800)
    assert found.calibration == Calibration(0.0, 1.0, None)
    size = {"shortest_edge": 65536, "longest_edge": 16777216}
    raw = {"size": size, "patch_size": 16, "merge_size": 2}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(raw))
    found = Manifest.read(tmp_path)
    assert (found.min_visual_tokens, found.max_visual_tokens) == (64, 16384)


def test_card_states_what_the_folder_needs(tokenizer: Tokenizer) -> None:
    text = card_text(manifest_for(tokenizer))
    assert text.startswith("---\nlicense: ") and "pipeline_tag: text-ranking" in text
    for fact in (
        "12,345",
        "unirank-native-1",
        "1 to 64",
        "owner/base at revision abc",
        "bce \\| r",
    ):
        assert fact in text, fact
    assert "## Evaluation" not in text  # no results were given
    adapter = card_text(manifest_for(tokenizer), adapter_of="owner/base")
    assert "PeftModel.from_pretrained" in adapter and "library_name: peft" in adapter

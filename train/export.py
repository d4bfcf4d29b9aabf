"""`python -m train.export`: a checkpoint of a run as a folder that other programs load.

A complete model in the published layout (adapters merged), or with `--lora adapter` a PEFT folder.
`unirank_jax.load`, transformers, sentence-transformers and peft read the result as it is.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import jax.numpy as jnp

from train.calibrated import flat
from train.checkpoint import CheckpointError, Meta
from train.config import ConfigError
from train.evaluation import examples_of, reranker_scorer
from train.initial import MODEL_FOLDER, restore_model
from train.judging import judged
from train.settings import TrainConfig
from unirank_jax.calibration import Calibration, CalibrationError, fit_platt
from unirank_jax.datasets.dataset import DatasetError, open_source, sources
from unirank_jax.datasets.forms import in_form
from unirank_jax.export import save_adapter, save_pretrained
from unirank_jax.hub import WeightsError
from unirank_jax.keys import flatten
from unirank_jax.loading import load
from unirank_jax.lora import LoRAError
from unirank_jax.manifest import Manifest, ManifestError
from unirank_jax.model_card import Card, render

_EXAMPLES = """examples:
  python -m train.export --workdir runs/sft-sci-tiny --out exported
  python -m train.export --workdir runs/sft-sci-tiny --calibrate 300 --out exported
  python -m train.export --workdir runs/sft-sci-2b_lora --step 2000 --out adapter --lora adapter
"""
EXPECTED = (
    ConfigError,
    CheckpointError,
    WeightsError,
    LoRAError,
    ManifestError,
    CalibrationError,
    DatasetError,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Write the folder. Exit code 0, or 1 with a message."""
    arguments = _parser().parse_args(argv)
    try:
        step = export(
            Path(arguments.workdir),
            arguments.step,
            Path(arguments.out),
            arguments.lora,
            arguments.dtype,
            arguments.calibrate,
        )
    except EXPECTED as error:
        print(f"train.export: {error}", file=sys.stderr)
        return 1
    print(f"step {step} of {arguments.workdir} is in {arguments.out}")
    return 0


def export(
    workdir: Path, step: str, out: Path, adapters: str, dtype: str | None, calibrate: int = 0
) -> int:
    """Write step `step` ("best", "last" or a number) to `out`; returns the step's number.

    Args:
        adapters: "merged" or "adapter" (PEFT, only for runs with LoRA).
        dtype: of the weights on disk; None takes the one that the run computed in.
        calibrate: fit scores to be probabilities on so many lists of the evaluation split.

    Raises:
        ConfigError, CheckpointError, WeightsError: no such run or step, or a folder in use.
        CalibrationError: relevant candidates have no higher logits than others.
    """
    model, config, meta, number = restore_model(workdir, step)
    chosen = dtype or config.model.compute_dtype
    manifest = replace(Manifest.from_json(meta.unirank), dtype=chosen)
    if adapters == "adapter" and calibrate:
        raise ConfigError("--calibrate: adapters carry no calibration; leave one option out")
    if adapters == "adapter":
        if config.lora.rank == 0:
            raise ConfigError(
                f"--lora adapter: {workdir} was trained without adapters; leave the option out"
            )
        manifest = replace(manifest, dtype="float32")
        card = _card(workdir, out, config, meta, number, model, config.model.init)
        save_adapter(out, model, config.model.init, manifest, render(card, manifest))
    else:
        card = _card(workdir, out, config, meta, number, model, None)
        kind = jnp.dtype(chosen)

        def save(folder: Path, manifest: Manifest) -> None:
            text = render(card, manifest)
            save_pretrained(folder, model, manifest, workdir / MODEL_FOLDER, text, dtype=kind)

        if calibrate:
            with TemporaryDirectory() as temporary:
                save(Path(temporary) / "model", manifest)
                found = _calibration(Path(temporary) / "model", config, calibrate)
            manifest = manifest.with_calibration(found)
        save(out, manifest)
    return number


def _calibration(folder: Path, config: TrainConfig, limit: int) -> Calibration:
    """Platt's fit on lists of the evaluation split, as the exported weights score them."""
    reranker, split = load(folder), config.evaluation.split
    dataset = in_form(open_source(config.data.source), config.data.form, reranker.prompt.spec)
    examples = examples_of(dataset, split, limit)
    scorer = reranker_scorer(reranker, on_error="nan", progress="calibration")
    table = flat(scorer(examples), [judged(example) for example in examples])
    return fit_platt(table.logits, table.relevant, f"{len(examples)} lists, split {split}")


def _card(
    workdir: Path,
    out: Path,
    config: TrainConfig,
    meta: Meta,
    step: int,
    model: object,
    adapter_of: str | None,
) -> Card:
    losses = " + ".join(f"{weight:g} {name}" for name, weight in config.loss.items())
    batch, schedule = config.batch, config.schedule
    return Card(
        name=out.name,
        licence="apache-2.0",
        summary=f"A reranker tuned with unirank_jax from `{config.model.init}`.",
        parameters=sum(leaf.size for leaf in flatten(model).values()),
        modalities=("text", "image"),
        training={
            "configuration": f"{config.name} ({meta.unirank['train_config_hash']})",
            "step": f"{step} of {schedule.steps}",
            "update": f"{batch.lists} lists of {config.data.list_size} candidates",
            "form of candidates": config.data.form,
            "loss": losses,
            "learning rate": f"{config.optimizer.lr:g}",
            "adapters": f"rank {config.lora.rank}" if config.lora.rank else "none",
            "seed": str(config.seed),
        },
        data=(_data(workdir, config),),
        results=_results(workdir, step, config.evaluation.split),
        limits=(),
        adapter_of=adapter_of,
    )


def _data(workdir: Path, config: TrainConfig) -> str:
    """Which data: its name, not its place, and the hash of its content."""
    environment = json.loads((workdir / "env.json").read_text(encoding="utf-8"))
    names = " and ".join(Path(part).name for part in sources(config.data.source))
    return f"{names}, content hash {environment['data'][:12]}, split {config.data.train_split}"


def _results(workdir: Path, step: int, split: str) -> str:
    """The evaluation of this step during training as a Markdown table, or nothing."""
    path = workdir / "metrics.jsonl"
    if not path.exists():
        return ""
    lines = [json.loads(text) for text in path.read_text(encoding="utf-8").splitlines()]
    found = [line for line in lines if line["kind"] == split and line["step"] in (0, step)]
    if not any(line["step"] == step for line in found):
        return ""
    names = [name for name in found[-1] if name not in ("step", "kind")]
    head = f"On {found[-1]['queries']:.0f} lists of split {split}, during training:\n\n"
    rows = ["| | " + " | ".join("step " + str(line["step"]) for line in found) + " |"]
    rows.append("|---" * (len(found) + 1) + "|")
    for name in names:
        values = " | ".join(f"{line.get(name, float('nan')):.3f}" for line in found)
        rows.append(f"| {name} | {values} |")
    return head + "\n".join(rows)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m train.export",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=_EXAMPLES,
    )
    parser.add_argument("--workdir", required=True, help="folder of the run")
    parser.add_argument(
        "--step", default="best", help="best, last or a number (default: %(default)s)"
    )
    parser.add_argument("--out", required=True, help="a new or empty folder")
    parser.add_argument(
        "--lora",
        choices=("merged", "adapter"),
        default="merged",
        help="what becomes of adapters (default: %(default)s)",
    )
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16"),
        help="of the weights on disk (default: as the run computed)",
    )
    parser.add_argument(
        "--calibrate",
        type=int,
        default=0,
        metavar="LISTS",
        help="fit scores to be probabilities on so many lists of the evaluation split",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())

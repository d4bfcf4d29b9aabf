"""A model of a few thousand parameters, a small dataset with pictures, and runs of train.sft on it.

For tests of the training program: everything is real, only small.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from flax import nnx
from PIL import Image, ImageDraw

import unirank_jax
from unirank_jax.config import ModelConfig, TextConfig, VisionConfig
from unirank_jax.model import Model
from unirank_jax.tokenizer import Tokenizer
from unirank_jax.weights import write_weights

ROOT = Path(__file__).parent.parent
TOKENIZER = Path(unirank_jax.__file__).parent / "assets" / "tokenizer"
COLOURS = ("red", "green", "blue", "black", "orange", "purple")
SHAPES = ("circle", "square")


def model_folder(folder: Path) -> Path:
    """A Hugging Face folder with a random model that has every part of a large one."""
    tokenizer = Tokenizer.from_file(TOKENIZER)
    special = {
        name: tokenizer.special(f"<|{name}|>")
        for name in ("image_pad", "video_pad", "vision_start", "vision_end")
    }
    config = ModelConfig(
        text=TextConfig(
            vocabulary=tokenizer.vocabulary_size,
            width=16,
            depth=2,
            mlp_width=24,
            heads=2,
            kv_heads=1,
            head_dim=8,
            rope_theta=500.0,
            rope_sections=(2, 1, 1),
            norm_eps=1e-6,
            tied=True,
            max_positions=1024,
        ),
        vision=VisionConfig(
            depth=2,
            width=16,
            mlp_width=24,
            heads=2,
            patch_size=4,
            merge_size=2,
            temporal_patch_size=2,
            table_size=16,
            out_width=16,
            deepstack_layers=(0,),
        ),
        image_token_id=special["image_pad"],
        video_token_id=special["video_pad"],
        vision_start_id=special["vision_start"],
        vision_end_id=special["vision_end"],
    )
    folder.mkdir(parents=True)
    write_weights(folder, Model(config, nnx.Rngs(0)), config, "float32", 1 << 30)
    (folder / "config.json").write_text(json.dumps(config.to_hf()))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(TOKENIZER / name, folder / name)
    return folder


def dataset_folder(folder: Path, lists: int = 12) -> Path:
    """Lists that ask for a coloured shape, answered by pictures and by texts."""
    folder.mkdir(parents=True)
    things = [(colour, shape) for colour in COLOURS for shape in SHAPES]
    for colour, shape in things:
        image = Image.new("RGB", (24, 16), "white")
        draw = ImageDraw.Draw(image)
        (draw.ellipse if shape == "circle" else draw.rectangle)((4, 2, 20, 14), fill=colour)
        image.save(folder / f"{colour}-{shape}.png")
    for split, count in (("train", lists), ("valid", 4)):
        lines = []
        for n in range(count):
            colour, shape = things[n % len(things)]
            others = [thing for thing in things if thing != (colour, shape)]
            some = [others[(3 * n + k) % len(others)] for k in range(4)]
            candidates = [
                {"image": f"{c}-{s}.png"} if k % 2 else {"text": f"a {c} {s}"}
                for k, (c, s) in enumerate(some)
            ]
            answer = (
                {"image": f"{colour}-{shape}.png"} if n % 2 else {"text": f"a {colour} {shape}"}
            )
            lines.append(
                {
                    "qid": f"{split}-{n}",
                    "query": {"text": f"which one shows a {shape} that is {colour}?"},
                    "candidates": [{**c, "grade": 0} for c in some_first(candidates, n)]
                    + [{**answer, "grade": 1}],
                }
            )
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (folder / f"{split}.jsonl").write_text(text)
    return folder


def some_first(candidates: list[dict[str, str]], n: int) -> list[dict[str, str]]:
    """The candidates turned by n places, so that no position is special."""
    return candidates[n % 4 :] + candidates[: n % 4]


def settings(data: Path, model: Path, **changes: object) -> list[str]:
    """`--set` values of a run of seconds; double underscores in `changes` stand for dots."""
    values: dict[str, object] = {
        "model.init": model,
        "data.source": data,
        "data.list_size": 4,
        "data.min_other_modality": 1,
        "data.min_visual_tokens": 1,
        "data.max_visual_tokens": 6,
        "data.max_tokens": 192,
        "data.max_query_tokens": 48,
        "data.length_window": 2,
        "data.buckets": 1,
        "batch.lists": 4,
        "optimizer.lr": 3e-3,
        "schedule.steps": 12,
        "schedule.warmup_steps": 2,
        "evaluation.every_steps": 6,
        "evaluation.lists": 4,
        "evaluation.list_size": 5,
        "checkpoint.every_steps": 3,
        "log.every_steps": 2,
    }
    values |= {name.replace("__", "."): value for name, value in changes.items()}
    return [f"{name}={value}" for name, value in values.items()]


def command(workdir: Path, overrides: list[str]) -> list[str]:
    """The command line of a run."""
    return [
        *(sys.executable, "-m", "train.sft", "--config", str(ROOT / "configs" / "sci.py")),
        *("--workdir", str(workdir), "--set", *overrides),
    ]


def start(workdir: Path, overrides: list[str]) -> subprocess.Popen[str]:
    """A run in a process of its own, on one CPU device."""
    return subprocess.Popen(
        command(workdir, overrides),
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu", "TOKENIZERS_PARALLELISM": "false"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def series(workdir: Path) -> list[dict[str, object]]:
    """metrics.jsonl without the timings, which differ from run to run."""
    lines = [json.loads(text) for text in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "timing"} for line in lines]

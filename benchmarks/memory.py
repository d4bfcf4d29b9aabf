"""Peak host memory of loading, scoring and exporting a published size, with random weights.

    python -m benchmarks.memory --preset 2b --out results/m5/memory.json

Each step is a process of its own; its peak is what the kernel says (VmHWM: pages of mapped files
count). Aim: loading and exporting at no more than 1.3 times the checkpoint and 1 GiB. The 2B shape
takes 9 GB of disk and 7 GiB of memory.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from zlib import crc32

import ml_dtypes
import numpy as np
from PIL import Image

from benchmarks.machine import write
from train.initial import ASSETS
from unirank_jax.config import ModelConfig, preset
from unirank_jax.keys import abstract_params, entries, their_shape
from unirank_jax.loading import load
from unirank_jax.manifest import LABEL_TOKENS
from unirank_jax.tensor_file import write_tensors
from unirank_jax.tokenizer import Tokenizer
from unirank_jax.weights import SINGLE_FILE

GIB = 2**30
SHARE, BESIDE = 1.3, GIB  # of the checkpoint, and beside it
SPREAD = 0.02  # of the random weights
LABEL_SCALE = 20.0  # of both labels' rows, so that scores spread like real ones
STEPS = ("load", "score", "export")


def main() -> None:
    """The command; exit status 1 where loading or exporting took more than the aim."""
    arguments = _parser().parse_args()
    if arguments.step:
        return step(arguments.step, Path(arguments.folder))
    with TemporaryDirectory(dir=arguments.scratch) as scratch:
        folder = Path(scratch) / "model"
        make(folder, preset(arguments.preset))
        checkpoint = (folder / SINGLE_FILE).stat().st_size
        aim = SHARE * checkpoint + BESIDE
        found = {
            "preset": arguments.preset,
            "checkpoint_gib": checkpoint / GIB,
            "aim_gib": aim / GIB,
        }
        command = [sys.executable, "-m", "benchmarks.memory", "--folder", str(folder), "--step"]
        for name in STEPS:
            began = time.perf_counter()
            done = subprocess.run([*command, name], check=True, stdout=subprocess.PIPE, text=True)
            peak = json.loads(done.stdout.splitlines()[-1])["peak"]
            found |= {f"{name}_peak_gib": peak / GIB, f"{name}_s": time.perf_counter() - began}
            print(f"{name}: peak {peak / GIB:.2f} GiB, {time.perf_counter() - began:.0f} s")
    print(f"checkpoint {checkpoint / GIB:.2f} GiB, aim for loading and exporting {aim / GIB:.2f}")
    write(
        arguments.out,
        {name: round(v, 2) if isinstance(v, float) else v for name, v in found.items()},
    )
    worst = max(found["load_peak_gib"], found["export_peak_gib"])
    sys.exit(0 if worst <= found["aim_gib"] else 1)


def make(folder: Path, config: ModelConfig) -> None:
    """A published folder of this shape: random weights in bfloat16, the embedded tokenizer."""
    folder.mkdir(parents=True)
    tokenizer = Tokenizer.from_file(ASSETS / "tokenizer")
    image, video, start, end = (
        tokenizer.special(f"<|{name}|>")
        for name in ("image_pad", "video_pad", "vision_start", "vision_end")
    )
    config = replace(
        config,
        image_token_id=image,
        video_token_id=video,
        vision_start_id=start,
        vision_end_id=end,
    )
    shapes = abstract_params(config)
    theirs = {e.key: their_shape(e, shapes[e.name].shape, config) for e in entries(config)}
    labels = [tokenizer.single(word) for word in LABEL_TOKENS]
    # Repeated, with a period that no width divides: rows are alike in no matrix.
    noise = np.random.default_rng(0).normal(0, SPREAD, 1_000_003).astype(ml_dtypes.bfloat16)

    def random(key: str) -> np.ndarray:
        shape = theirs[key]
        if "norm" in key or key.endswith("bias"):
            return np.full(shape, key.endswith("weight"), noise.dtype)
        found = np.resize(np.roll(noise, crc32(key.encode()) % len(noise)), shape)
        if key.endswith(("embed_tokens.weight", "lm_head.weight")):
            found[labels] *= noise.dtype.type(LABEL_SCALE)
        return found

    write_tensors(folder / SINGLE_FILE, theirs, random, noise.dtype)
    (folder / "config.json").write_text(json.dumps(config.to_hf()))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(ASSETS / "tokenizer" / name, folder / name)


def step(name: str, folder: Path) -> None:
    """One step in this process; prints its peak."""
    reranker = load(folder, dtype="bfloat16")
    if name == "score":
        picture = Image.new("RGB", (512, 512), "white")
        assert np.isfinite(reranker.logits("a query", ["a text", {"image": picture}])).all()
    if name == "export":
        reranker.save_pretrained(folder.with_name("exported"), dtype="bfloat16")
    status = Path("/proc/self/status").read_text()
    peak = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    print(json.dumps({"peak": int(peak.split()[1]) * 1024}))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.memory",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--preset", default="2b", help="2b, 4b, 8b or tiny (default: 2b)")
    parser.add_argument("--scratch", help="folder for the weights (default: the system's)")
    parser.add_argument("--out", help="a JSON file")
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    main()

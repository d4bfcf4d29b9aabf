"""`python -m train.grow`: a trained network with more attention heads, and the same scores.

What a small network's heads have learned leaves little room to look words up (`loss.overlap`).
New heads are drawn at random and say nothing yet: their rows of the output projection are zero
(function-preserving growth, Net2Net, Chen et al. 2016). `--head-dim` doubles the size of heads,
too: an old head's rotary pairs take the slots of the same rate, and the rest of its queries and
keys are zero. Where height and width share the rotary pairs, they change places then, so that
scores of pictures move a little.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from flax import nnx

from train.initial import read_config
from train.step import Layout
from unirank_jax.config import ModelConfig, TextConfig
from unirank_jax.export import save_pretrained
from unirank_jax.hub import WeightsError
from unirank_jax.keys import flatten
from unirank_jax.loading import load
from unirank_jax.model import Model
from unirank_jax.weights import load_params

_EXAMPLES = """examples:
  python -m train.grow --model results/m2/stage1-sci --heads 8 --out runs/grown
  python -m train.grow --model results/m2/stage1-sci --heads 6 --head-dim 64 --out runs/grown"""


def main(argv: Sequence[str] | None = None) -> int:
    """The command. Exit code 0 when the folder is written, 1 on an error."""
    arguments = _parser().parse_args(argv)
    folder, out = Path(arguments.model), Path(arguments.out)
    try:
        if out.exists():
            raise ValueError(f"--out: {out} exists; remove it or choose another folder")
        before = read_config(folder)
        size = arguments.head_dim or before.text.head_dim
        config = grown(before, arguments.heads, size)
        params = flatten(load_params(folder, before, jnp.float32))
        fresh = flatten(Model(config, nnx.Rngs(arguments.seed)))
        layers = {name: np.asarray(value) for name, value in params.items()}
        after = {name: jnp.asarray(value) for name, value in filled(layers, fresh, before, config)}
        model = Layout.of(Model.abstract(config)).model(after)
        card = (folder / "README.md").read_text("utf-8")
        save_pretrained(out, model, load(folder).manifest, folder, card, dtype="bfloat16")
    except (WeightsError, OSError, ValueError) as error:
        print(f"train.grow: {error}", file=sys.stderr)
        return 1
    print(f"the network to start from (model.init) is in {out}")
    return 0


def grown(config: ModelConfig, heads: int, size: int) -> ModelConfig:
    """The shapes with `heads` heads of `size` numbers, each with its own keys.

    Raises:
        ValueError: fewer heads, a size that is no multiple, or heads that share keys.
    """
    text = config.text
    if text.heads != text.kv_heads:
        raise ValueError("heads that share keys cannot grow; give a model with as many of both")
    if heads < text.heads:
        raise ValueError(f"--heads: {heads} are fewer than the model's {text.heads}")
    if size % text.head_dim:
        raise ValueError(f"--head-dim: {size} is no multiple of the model's {text.head_dim}")
    ratio = size // text.head_dim
    _, height, width = text.rope_sections
    sections = size // 2 - ratio * (height + width), ratio * height, ratio * width
    changed: TextConfig = replace(
        text, heads=heads, kv_heads=heads, head_dim=size, rope_sections=sections
    )
    return replace(config, text=changed)


def filled(
    old: dict[str, np.ndarray], fresh: dict[str, object], before: ModelConfig, after: ModelConfig
) -> list[tuple[str, np.ndarray]]:
    """The grown network's parameters by path: `old` in their places, the rest as in `fresh`, with
    nothing of new numbers in the output."""
    heads, size = before.text.heads, before.text.head_dim
    wide, ratio = after.text.head_dim, after.text.head_dim // before.text.head_dim
    pairs = np.arange(size // 2) * ratio  # a rotary pair i of the old takes slot i * ratio
    slots = np.concatenate([pairs, pairs + wide // 2])

    found = []
    for name, value in old.items():
        part = name.split(".")[-2]
        new = np.array(fresh[name], np.float32)
        if not name.startswith("text.stage_") or part not in ("q", "k", "v", "o", "q_norm", "k_norm"):
            new = value
        elif part in ("q_norm", "k_norm"):
            # a mean over more numbers, and in `attend` a larger divisor, take ratio ** 0.5 in all
            new = np.full_like(new, ratio**-0.25)
            new[..., slots] = value * ratio**-0.25
        elif part == "o":  # (L, heads * size, D)
            rows = np.zeros((len(new), after.text.heads, wide, new.shape[-1]), np.float32)
            rows[:, :heads, slots] = value.reshape(len(value), heads, size, -1)
            new = rows.reshape(new.shape)
        else:  # (L, D, heads * size)
            columns = new.reshape(*new.shape[:2], after.text.heads, wide)
            if part != "v":
                columns[:, :, :heads] = 0.0
            columns[:, :, :heads, slots] = value.reshape(*value.shape[:2], heads, size)
            new = columns.reshape(new.shape)
        found.append((name, new))
    return found


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m train.grow",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=_EXAMPLES,
    )
    parser.add_argument("--model", required=True, metavar="DIR", help="an exported model")
    parser.add_argument("--heads", required=True, type=int, metavar="N", help="in all")
    parser.add_argument(
        "--head-dim", type=int, metavar="N", help="a multiple of the old size (default: that)"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", required=True, metavar="DIR")
    return parser


if __name__ == "__main__":
    sys.exit(main())

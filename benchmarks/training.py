"""Seconds of a training step with the query shared by its candidates, and with it in every row.

    python -m benchmarks.training --out results/m3/training.json
    python -m benchmarks.training --groups 2 --rounds 3

The step is the project's own: forward, backward and AdamW on all parameters, lists of 16
candidates of 60 tokens under an image query of 256 visual tokens. Without sharing, system,
instruction and query stand before every candidate; the query's image is encoded once in both
forms, and neither computes padding. The gradients of the first update are compared: AdamW's first
moment is then the gradient times 1 - beta1 (the bound of clipping is infinite here, since clipping
would hide that two gradients differ by a factor). The forms take turns. Run it on an idle machine:
the load and the rate of a matrix product are measured before, between and after, and the run is
void when they moved by more than a tenth. The repeated form of the default sizes takes about 13 GB
of memory.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

from benchmarks import model as shapes
from benchmarks.flops import of_update
from benchmarks.machine import Machine, summary, timed, write
from benchmarks.workloads import passage, picture
from configs.sci import tiny
from train.data import Micro, empty_targets, to_devices
from train.initial import make_layout, open_start
from train.inputs import make_prompt
from train.ranking import RankingObjective
from train.settings import TrainConfig
from train.step import (
    TrainState,
    initial_state,
    learning_rate,
    make_optimizer,
    make_step,
    state_shardings,
)
from unirank_jax import sharding
from unirank_jax.config import ModelConfig
from unirank_jax.content import TextPart, parse
from unirank_jax.packing import compact_needs, pack
from unirank_jax.prompt import Encoded, Prompt

SHARED, REPEATED = "shared prefix", "prefix in every row"
TOLERANCE = 1e-5  # of the largest entry of a parameter's gradient
Group = tuple[Encoded, list[Encoded]]  # a query's prefix and its candidates


def main(argv: Sequence[str] | None = None) -> int:
    """The command; 1 where gradients differ or the machine was not steady, else 0."""
    arguments = _parser().parse_args(argv)
    machine = Machine()
    found = measure(shapes.save(Path(arguments.model)), arguments, machine)
    print(render(found))
    print(machine.verdict)
    write(arguments.out, {**machine.about(), **found})
    return 0 if machine.steady and found["largest_difference"] <= TOLERANCE else 1


def measure(folder: Path, arguments: argparse.Namespace, machine: Machine) -> dict[str, Any]:
    """Both forms of the same update: times of the rounds, and whether the gradients agree."""
    trial = Trial(settings(folder, arguments))
    groups = make_groups(trial.prompt, arguments)
    forms = {
        form: trial.place(micro_batch(trial.model, groups, shared=form == SHARED))
        for form in (SHARED, REPEATED)
    }
    first: dict[str, float] = {}
    gradients, losses = {}, {}
    for form, batch in forms.items():
        state = trial.fresh()
        first[form], (state, metrics) = timed(partial(trial.update, state, batch))
        gradients[form] = trial.gradient(state)
        losses[form] = float(metrics["loss"])
        del state  # memory for one at a time
    state = trial.fresh()
    times: dict[str, list[float]] = {form: [] for form in forms}
    for _ in range(arguments.rounds):
        for form, batch in forms.items():
            seconds, (state, _) = timed(partial(trial.update, state, batch))
            times[form].append(seconds)
        machine.measure()
    needs = of_update(trial.model, groups)
    differences = relative_differences(gradients[SHARED], gradients[REPEATED])
    worst = max(differences, key=lambda name: differences[name])
    medians = {form: statistics.median(some) for form, some in times.items()}
    return {
        "groups": len(groups),
        "candidates": arguments.candidates,
        "tokens_of_prefix": len(groups[0][0].tokens),
        "tokens_of_candidate": len(groups[0][1][0].tokens),
        "parameters": sum(x.size for x in gradients[SHARED].values()),
        "needed_flop": needs,
        "largest_difference": differences[worst],
        "where_it_is": worst,
        "losses": losses,
        "times_faster": round(medians[REPEATED] / medians[SHARED], 3),
        "forms": {
            form: {
                **summary(first[form], some),
                "computed_tokens": _tokens(forms[form]),
                "needed_flop_per_second": needs / medians[form],
                "share_of_product_rate": machine.share(needs / medians[form]),
            }
            for form, some in times.items()
        },
    }


class Trial:
    """The model, the compiled update and what it needs, as `train.sft` builds them."""

    def __init__(self, config: TrainConfig) -> None:
        self.start = open_start(config.model, config.seed)
        self.model, self.prompt = self.start.config, make_prompt(config, self.start)
        self.mesh = sharding.mesh(1, 1, 1, jax.devices()[:1])
        layout, _ = make_layout(self.model, config.lora, config.seed)
        self.places = layout.shardings(self.mesh)
        self.optimizer = make_optimizer(config.optimizer, config.schedule)
        shapes_of = {
            name: jax.ShapeDtypeStruct(v.shape, v.dtype) for name, v in layout.variables.items()
        }
        self.state_places = state_shardings(self.optimizer, shapes_of, self.places, self.mesh)
        self.step = make_step(
            RankingObjective(layout, self.prompt.label_ids, config),
            config.loss,
            self.optimizer,
            learning_rate(config.optimizer, config.schedule),
            self.state_places,
            {},
            self.mesh,
        )

    def fresh(self) -> TrainState:
        """The state before the first update."""
        return initial_state(self.optimizer, self.start.load(self.places), self.state_places)

    def place(self, micro: Micro) -> Micro:
        """A batch of one micro-batch on the device."""
        return to_devices({0: jax.tree.map(lambda x: x[None], micro)}, self.mesh)

    def update(self, state: TrainState, batch: Micro) -> tuple[TrainState, dict[str, Any]]:
        """One update, waited for. The given state is used up."""
        return jax.block_until_ready(self.step(state, batch))

    def gradient(self, state: TrainState) -> dict[str, np.ndarray]:
        """The gradient of the first update, times 1 - beta1, by parameter."""
        moments = optax.tree_utils.tree_get(state.optimizer, "mu")
        return {name: np.asarray(value) for name, value in moments.items()}


def settings(folder: Path, arguments: argparse.Namespace) -> TrainConfig:
    """The configuration of stage 1 with this model, every parameter trained, no clipping."""
    config = tiny()
    return replace(
        config,
        model=replace(config.model, init=str(folder)),
        data=replace(
            config.data,
            max_tokens=4096,
            max_query_tokens=1024,
            min_visual_tokens=arguments.image_tokens,
            max_visual_tokens=arguments.image_tokens,
        ),
        optimizer=replace(config.optimizer, clip_norm=math.inf),
        freeze=(),
    )


def make_groups(prompt: Prompt, arguments: argparse.Namespace) -> list[Group]:
    """Image queries, each with its candidates of so many tokens (besides those of the prompt)."""
    rng = np.random.default_rng(0)
    side = math.isqrt(arguments.image_tokens) * prompt.spec.patch_size * prompt.spec.merge_size
    groups = []
    for _ in range(arguments.groups):
        prefix = prompt.prefix(parse(picture(rng, side, side), "query"))
        texts = [
            text_of_length(prompt, rng, arguments.candidate_tokens)
            for _ in range(arguments.candidates)
        ]
        rows = [
            prompt.candidate([TextPart(text)], "candidate", len(prefix.tokens)) for text in texts
        ]
        groups.append((prefix, rows))
    return groups


def text_of_length(prompt: Prompt, rng: np.random.Generator, tokens: int) -> str:
    """Real words that make exactly so many tokens."""
    text = ""
    while (missing := tokens - len(prompt.tokenizer.encode(text))) > 0:
        longer = f"{text} {passage(rng, 1)}".strip()
        if len(prompt.tokenizer.encode(longer)) <= len(prompt.tokenizer.encode(text)) + missing:
            text = longer
    return text


def micro_batch(config: ModelConfig, groups: Sequence[Group], shared: bool) -> Micro:
    """The lists packed without padding, first candidate relevant; not `shared`: a prefix of no
    tokens, and the query at the start of every row. Equal pictures are encoded once."""
    size = max(len(rows) for _, rows in groups)
    targets = empty_targets(len(groups), size)
    candidates: list[Encoded] = []
    query_of: list[int] = []
    for g, (prefix, rows) in enumerate(groups):
        targets.label_row[0, g, : len(rows)] = len(candidates) + np.arange(len(rows))
        targets.mask[0, g, : len(rows)] = True
        targets.grade[0, g, : len(rows)] = np.arange(len(rows)) == 0
        targets.list_id[0, g] = g
        candidates += rows if shared else [joined(prefix, row) for row in rows]
        query_of += [g if shared else 0] * len(rows)
    nothing = Encoded(np.zeros(0, np.int32), (), False, "nothing")
    prefixes = [prefix for prefix, _ in groups] if shared else [nothing]
    bucket = compact_needs(prefixes, candidates, lambda digest: 0)
    return Micro(pack(config, prefixes, candidates, query_of, bucket), targets)


def joined(prefix: Encoded, row: Encoded) -> Encoded:
    """Both parts of a prompt as one sequence."""
    tokens = np.concatenate([prefix.tokens, row.tokens])
    return Encoded(tokens, prefix.images + row.images, row.truncated, row.where)


def relative_differences(
    found: dict[str, np.ndarray], expected: dict[str, np.ndarray]
) -> dict[str, float]:
    """Per parameter: the largest difference in units of the largest entry; 0 where both are 0."""
    differences = {}
    for name, value in expected.items():
        difference, scale = np.abs(found[name] - value).max(), np.abs(value).max()
        differences[name] = float(difference / scale) if scale else float(difference > 0)
    return differences


def render(found: dict[str, Any]) -> str:
    """The result as lines of text."""
    lines = [
        f"{found['groups']} queries of {found['tokens_of_prefix']} tokens with "
        f"{found['candidates']} candidates of {found['tokens_of_candidate']}, "
        f"{found['parameters'] / 1e6:.0f}M parameters, {found['needed_flop'] / 1e9:.0f} GFLOP "
        f"needed, largest difference of a gradient {found['largest_difference']:.1e} "
        f"({found['where_it_is']})"
    ]
    for form, row in found["forms"].items():
        lines.append(
            f"  {form:20} {row['median_s']:9.3f} s, {row['computed_tokens']:6d} tokens, "
            f"{100 * row['share_of_product_rate']:6.1f} % of the product rate, "
            f"first call {row['first_s']:.1f} s"
        )
    lines.append(f"  {found['times_faster']:.2f} times faster with the shared prefix")
    return "\n".join(lines)


def _tokens(micro: Micro) -> int:
    """Tokens that the decoder computes."""
    return int(micro.batch.prefix.lengths.sum() + micro.batch.rows.lengths.sum())


def _square(text: str) -> int:
    value = int(text)
    if value < 1 or math.isqrt(value) ** 2 != value:
        raise argparse.ArgumentTypeError(f"{value} is no square number; give 64, 256 or the like")
    return value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.training",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--groups", type=int, default=1, help="queries (default: %(default)s)")
    parser.add_argument("--candidates", type=int, default=16, help="(default: %(default)s)")
    parser.add_argument("--candidate-tokens", type=int, default=60, help="(default: %(default)s)")
    parser.add_argument(
        "--image-tokens", type=_square, default=256, help="of a query (default: %(default)s)"
    )
    parser.add_argument("--rounds", type=int, default=5, help="(default: %(default)s)")
    parser.add_argument(
        "--model", default="runs/benchmarks/100m", help="folder, made where it is absent"
    )
    parser.add_argument("--out", help="a file for the JSON")
    return parser


if __name__ == "__main__":
    sys.exit(main())

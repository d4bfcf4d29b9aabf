"""`python -m train.pretrain`: visual pretraining from scratch, the step that published sizes skip.

Teaches a random network to see: contrast between queries, images and texts of the same object, and
captions predicted from images. The result is a Hugging Face folder from which `train.sft` starts.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import grain
import jax
import jax.numpy as jnp
import optax
from flax import nnx

from train.checkpoint import CheckpointError, Checkpoints
from train.config import digest, load, parse
from train.contrast import PretrainBatch, losses
from train.initial import ASSETS
from train.loop import Item, Schedule, resume, run
from train.report import NonFiniteError, Report, describe_run
from train.settings import CheckpointSettings, LogSettings, OptimizerSettings, ScheduleSettings
from train.step import Layout, Params, make_optimizer
from train.units import PairSampler, PairSettings, units_of
from unirank_jax.calibration import IDENTITY
from unirank_jax.config import ModelConfig, preset
from unirank_jax.datasets.dataset import Dataset, open_source
from unirank_jax.export import save_pretrained
from unirank_jax.images import ImageSpec
from unirank_jax.keys import flatten
from unirank_jax.layers import Compute
from unirank_jax.manifest import LABEL_TOKENS, Manifest
from unirank_jax.model import Model
from unirank_jax.model_card import Card, render
from unirank_jax.prompt import Prompt
from unirank_jax.tokenizer import Tokenizer
from unirank_jax.weights import load_params

TERMS = ("words", "named", "alike", "contrast", "caption", "match", "document")
METRIC = "first_any"  # keeps the best checkpoint, when the contrast is on
SUMMARY = (
    "A tiny vision-language network, pretrained from scratch to see and to tell what belongs "
    "together; `train.sft` makes a reranker of it."
)
EXPECTED = (CheckpointError, NonFiniteError, ValueError)
COMPUTE = Compute(unroll=True)  # a small model: four layers written out


@dataclass(frozen=True)
class PretrainConfig:
    """Everything that `train.pretrain` needs."""

    name: str
    seed: int
    preset: str
    init: str  # "" = random weights, "base", or the workdir or exported folder of a pretraining
    source: str  # "sample:sci", or a dataset folder
    tokenizer: str  # "" = the embedded one, or a tokenizer.json
    pools: dict[str, int]  # domain of the lists -> objects per batch
    prompt_id: str
    max_tokens: int
    max_query_tokens: int
    visual_tokens: int  # per image, smallest and largest
    pairs: PairSettings
    loss: dict[str, float] = field(metadata={"keys": TERMS})
    temperature: float  # of the cosine in the contrast
    optimizer: OptimizerSettings
    schedule: ScheduleSettings
    freeze: tuple[str, ...]  # regular expressions over parameter paths, e.g. r"text\.embed\..*"
    evaluate_every: int
    evaluation_batches: int
    checkpoint: CheckpointSettings
    log: LogSettings


class State(NamedTuple):
    """What a checkpoint holds."""

    params: Params  # float32, by dotted path
    optimizer: Any


def tokenizer_folder(config: PretrainConfig) -> Path:
    """Where tokenizer.json lies."""
    return Path(config.tokenizer) if config.tokenizer else ASSETS / "tokenizer"


def make_prompt(config: PretrainConfig, model: ModelConfig) -> Prompt:
    """The prompt that the objects are encoded with."""
    tokenizer = Tokenizer.from_file(tokenizer_folder(config))
    spec = ImageSpec(
        model.vision.patch_size, model.vision.merge_size, config.visual_tokens, config.visual_tokens
    )
    return Prompt(tokenizer, config.prompt_id, spec, config.max_tokens, config.max_query_tokens)


def make_sampler(
    config: PretrainConfig, model: ModelConfig, prompt: Prompt, dataset: Dataset, split: str
) -> PairSampler:
    """Batches of a split. Raises ValueError when a domain has fewer objects than a batch takes."""
    units = units_of(dataset, split)
    pools = [([u for u in units if u.domain == domain], n) for domain, n in config.pools.items()]
    for (found, wanted), domain in zip(pools, config.pools, strict=True):
        if len(found) < wanted:
            raise ValueError(
                f"pools.{domain}: {wanted} objects per batch, {len(found)} are in split {split!r}; "
                "lower it or choose another source"
            )
    pairs = config.pairs
    if split != "train":  # evaluated as they are
        pairs = replace(pairs, turn=0.0, zoom=0.0, shift=0.0)
    return PairSampler(pools, prompt, model, pairs, config.seed)


def to_batch(arrays: dict[str, Any]) -> PretrainBatch:
    """Numpy fields of `PairSampler.arrays` as device arrays."""
    return jax.tree.map(jnp.asarray, PretrainBatch(**arrays))


def batches(sampler: PairSampler, start: int) -> Iterator[Item]:
    """Item n + 1 after position n; made ahead of time by one thread."""
    numbers = grain.MapDataset.range(start, sys.maxsize)
    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=4)
    for number, arrays in enumerate(
        numbers.map(lambda n: sampler.arrays(int(n))).to_iter_dataset(options), start
    ):
        yield Item(to_batch(arrays), (f"batch {number}",), number + 1)


def terms_of(config: PretrainConfig) -> frozenset[str]:
    """Names of the losses with a weight."""
    return frozenset(name for name, weight in config.loss.items() if weight)


def make_step(
    config: PretrainConfig, layout: Layout, optimizer: optax.GradientTransformation
) -> Any:
    """The jitted update (state, batch) -> (state, metrics); the state is donated."""
    trained = frozenset(layout.select(config.freeze))

    def objective(params: Any, batch: PretrainBatch) -> tuple[jax.Array, dict[str, Any]]:
        params = {n: p if n in trained else jax.lax.stop_gradient(p) for n, p in params.items()}
        terms = losses(layout.model(params), batch, terms_of(config), config.temperature, COMPUTE)
        means = {name: total / jnp.maximum(count, 1) for name, (total, count) in terms.items()}
        weighted = [weight * means[name] for name, weight in config.loss.items() if weight]
        return jnp.stack(weighted).sum(), terms

    @partial(jax.jit, donate_argnums=0)
    def step(state: State, batch: PretrainBatch) -> tuple[State, dict[str, Any]]:
        (loss, terms), gradient = jax.value_and_grad(objective, has_aux=True)(state.params, batch)
        updates, after = optimizer.update(gradient, state.optimizer, state.params)
        updates = {n: u if n in trained else jnp.zeros_like(u) for n, u in updates.items()}
        pairs = jnp.asarray(config.pairs.units, jnp.float32)
        metrics = {
            "loss": loss,
            "grad_norm": optax.global_norm(gradient),
            "pairs": (pairs, 1.0),
            **terms,
        }
        return State(optax.apply_updates(state.params, updates), after), metrics

    return step


def make_evaluation(config: PretrainConfig, layout: Layout, sampler: PairSampler) -> Any:
    """state -> means over fixed batches of the validation split."""
    term_sums = jax.jit(
        lambda params, batch: losses(
            layout.model(params), batch, terms_of(config), config.temperature, COMPUTE
        )
    )

    def evaluate(state: State) -> dict[str, float]:
        sums: dict[str, list[float]] = {}
        for number in range(config.evaluation_batches):
            terms = term_sums(state.params, to_batch(sampler.arrays(number)))
            for name, (total, count) in jax.device_get(terms).items():
                pair = sums.setdefault(name, [0.0, 0.0])
                pair[0] += float(total)
                pair[1] += float(count)
        return {name: total / max(count, 1.0) for name, (total, count) in sums.items()}

    return evaluate


def begin(config: PretrainConfig, model: ModelConfig, abstract: State, fresh: State) -> State:
    """The first state of a run: random, or the parameters that `config.init` ended with.

    Raises WeightsError when `config.init` holds neither a pretraining nor a model of this shape.
    """
    if not config.init:
        return fresh
    if not (Path(config.init) / "checkpoints").is_dir():
        folder = ASSETS / "base" if config.init == "base" else Path(config.init)
        return fresh._replace(params=flatten(load_params(folder, model, jnp.float32)))
    with Checkpoints(config.init, config.checkpoint.keep, METRIC, reading=True) as earlier:
        state, _ = earlier.restore(None, abstract)
    return fresh._replace(params=state.params)


def export(
    config: PretrainConfig,
    model: Model,
    prompt: Prompt,
    dataset: Dataset,
    out: Path,
    summary: str = SUMMARY,
) -> None:
    """Write the base as a Hugging Face folder in bfloat16; `summary` opens its card."""
    manifest = Manifest(
        prompt_id=config.prompt_id,
        instruction=prompt.instruction,
        label_tokens=LABEL_TOKENS,
        label_ids=prompt.label_ids,
        min_visual_tokens=config.visual_tokens,
        max_visual_tokens=config.visual_tokens,
        max_tokens=config.max_tokens,
        max_query_tokens=config.max_query_tokens,
        calibration=IDENTITY,
        base=None,
        base_revision=None,
        dtype="bfloat16",
        train_config_hash=digest(config),
    )
    card = Card(
        name=config.name,
        licence="apache-2.0",
        summary=summary,
        parameters=sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model))),
        modalities=("text", "image"),
        training={
            "steps": str(config.schedule.steps),
            "objects per step": str(config.pairs.units),
            "losses": ", ".join(f"{w:g} {name}" for name, w in config.loss.items()),
        },
        data=(f"{dataset.path.name}, content hash {dataset.fingerprint[:12]}, train split",),
        results="",
        limits=("for trying out: it has seen small molecules and a few hundred figures",),
    )
    folder = tokenizer_folder(config)
    save_pretrained(out, model, manifest, folder, render(card, manifest), dtype="bfloat16")


def main(argv: Sequence[str] | None = None) -> int:
    """Run or resume. Exit code 0 when finished, 1 on an error, 143 when stopped by SIGTERM."""
    arguments = parse("pretrain", __doc__ or "", "configs/sci_pretrain.py", argv)
    try:
        return pretrain(load(arguments.config, arguments.set), Path(arguments.workdir))
    except EXPECTED as error:
        print(f"train.pretrain: {error}", file=sys.stderr)
        return 1


def pretrain(config: PretrainConfig, workdir: Path) -> int:
    """Everything that the command does with a resolved configuration; prints where the result is.

    Returns 143 when a signal stopped it before its last step, else 0.
    """
    model_config = preset(config.preset)
    prompt = make_prompt(config, model_config)
    dataset = open_source(config.source)
    train = make_sampler(config, model_config, prompt, dataset, "train")
    valid = make_sampler(config, model_config, prompt, dataset, "valid")
    layout = Layout.of(Model.abstract(model_config))
    params = flatten(Model(model_config, nnx.Rngs(config.seed)))
    optimizer = make_optimizer(config.optimizer, config.schedule)

    def fresh() -> State:
        return State(params, optimizer.init(params))

    placement = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    abstract = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=placement),
        jax.eval_shape(fresh),
    )
    with Checkpoints(workdir, config.checkpoint.keep, METRIC) as checkpoints:
        describe_run(workdir, config, checkpoints.latest is not None, data=dataset.fingerprint)
        start = resume(
            checkpoints, abstract, lambda: begin(config, model_config, abstract, fresh())
        )
        count = sum(x.size for x in jax.tree.leaves(params))
        print(f"{count} parameters, {sum(len(u) for u, _ in train.pools)} objects, {workdir}")
        schedule = Schedule(
            config.schedule.steps, config.evaluate_every, config.checkpoint.every_steps
        )
        with Report(
            workdir, config.log.every_steps, config.schedule.steps, start.step, start.pending
        ) as report:
            outcome = run(
                start,
                make_step(config, layout, optimizer),
                batches(train, start.position),
                schedule,
                checkpoints,
                report,
                {"prompt_id": config.prompt_id},
                make_evaluation(config, layout, valid),
            )
    if not outcome.finished:
        print(f"stopped at step {outcome.step}; run the same command again to go on")
        return 143
    out = workdir / "exported"
    if not out.exists():
        export(config, layout.model(outcome.state.params), prompt, dataset, out)
    print(f"the base to start train.sft from (model.init) is in {out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

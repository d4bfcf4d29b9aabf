"""`python -m train.sft`: stage 1, instruction tuning of a reranker on lists with grades.

By default the tiny model on the embedded sample, on any machine. Running the same command again
resumes where the run stopped, bit for bit on the same devices.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from train import adversary, processes
from train.checkpoint import CheckpointError, Checkpoints
from train.compile_only import plan, render
from train.config import ConfigError, digest, load, parse, require_size
from train.data import Encoder, plan_settings, train_batches
from train.initial import Start, cast, keep_model_files, make_layout, open_start
from train.inputs import make_prompt, manifest, open_data
from train.loop import Outcome, Schedule, resume, run
from train.overlap import OVERLAP, Overlap
from train.plan import TrainPlan
from train.quarantine import Quarantine
from train.ranking import ADVERSARY, METRICS, RankingObjective, logits_of, make_evaluation
from train.report import NonFiniteError, Report, describe_run
from train.settings import TrainConfig
from train.sizes import cached_index
from train.stage import Stage, SupervisedStage
from train.step import (
    Params,
    abstract_state,
    initial_state,
    make_optimizer,
    state_shardings,
)
from unirank_jax import sharding
from unirank_jax.content import ContentError
from unirank_jax.programs import keep_programs

EXPECTED = (
    ConfigError,
    CheckpointError,
    ContentError,
    NonFiniteError,
    ValueError,
    jax.errors.JaxRuntimeError,  # of several processes, when one is lost
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run or resume. Exit code 0 when finished, 1 on an error, 143 when stopped by SIGTERM."""
    arguments = parse("sft", __doc__ or "", "configs/sci.py", argv, compiles=True)
    workdir = Path(arguments.workdir)
    try:
        config: TrainConfig = load(arguments.config, arguments.set)
        if arguments.compile_only:
            step = SupervisedStage(config).step
            print(render(config, plan(config, arguments.compile_only, step)))
            return 0
        processes.join()
        accelerators = 0 if jax.default_backend() == "cpu" else jax.device_count()
        require_size(arguments.config, accelerators)
        outcome = train(config, workdir)
    except EXPECTED as error:
        return processes.failed("train.sft", error, workdir)
    if not outcome.finished:
        print(f"stopped at step {outcome.step}; run the same command again to go on")
        return 143
    return 0


def train(config: TrainConfig, workdir: Path, stage: Stage | None = None) -> Outcome:
    """Everything that a command does with a resolved configuration; `stage`: of another stage."""
    stage = stage or SupervisedStage(config)
    _check(config)
    optimizer = make_optimizer(config.optimizer, config.schedule)  # refuses before data are read
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:  # the user's own choice
        keep_programs(workdir / "cache" / "programs")
    mesh = sharding.mesh(config.mesh.data, config.mesh.fsdp, config.mesh.tensor)
    start = open_start(config.model, config.seed)
    prompt = make_prompt(config, start)
    overlap = Overlap.of(prompt) if OVERLAP in config.loss else None
    dataset = open_data(config.data, prompt.spec)
    processes.agree({"configuration": digest(config), "data": dataset.fingerprint})
    settings = plan_settings(config, mesh, prompt)
    tolerant = config.data.bad_lists > 0
    index = cached_index(
        dataset, config.data.train_split, prompt, workdir / "cache", tolerant=tolerant
    )
    plan = TrainPlan(index, settings)
    layout, adapters = make_layout(start.config, config.lora, config.seed)
    places = layout.shardings(mesh)
    names = layout.select(config.freeze)
    dtypes = {
        name: jnp.dtype("float32" if name in names else config.model.frozen_dtype)
        for name in layout.variables
    }
    shapes = {
        name: jax.ShapeDtypeStruct(v.shape, dtypes[name], sharding=places[name])
        for name, v in layout.variables.items()
    }
    trained = {name: shapes[name] for name in names}
    kept = {name: shape for name, shape in shapes.items() if name not in trained}
    beside = adversary.fresh(start.config.text.width) if ADVERSARY in config.loss else {}
    everywhere = sharding.replicated(mesh)
    for name, value in beside.items():
        trained[name] = jax.ShapeDtypeStruct(value.shape, value.dtype, sharding=everywhere)
    state_places = state_shardings(
        optimizer, trained, {**places, **dict.fromkeys(beside, everywhere)}, mesh
    )

    with Checkpoints(workdir, config.checkpoint.keep, config.evaluation.metric) as checkpoints:
        describe_run(workdir, config, checkpoints.latest is not None, data=dataset.fingerprint)
        loaded: Params = {}
        if checkpoints.latest is None:
            keep_model_files(start, workdir)
            placed = {n: jax.device_put(a, places[n]) for n, a in adapters.items()}
            loaded = cast({**start.load(places), **placed}, dtypes)
            loaded |= {name: jax.device_put(value, everywhere) for name, value in beside.items()}
            if kept:
                checkpoints.save_constant({name: loaded[name] for name in kept})
        frozen = {n: loaded.pop(n) for n in kept} if loaded else {}
        if kept and not frozen:
            frozen = checkpoints.restore_constant(kept)
        resumed = resume(
            checkpoints,
            abstract_state(optimizer, trained, state_places),
            lambda: initial_state(optimizer, loaded, state_places),
        )
        objective = RankingObjective(layout, prompt.label_ids, config, mesh, overlap)

        def first_logits() -> np.ndarray:
            base = start.load(places)  # of step 0, whatever the checkpoint
            whole = {**base, **{n: jax.device_put(a, places[n]) for n, a in adapters.items()}}
            encoder = Encoder(dataset, index, prompt, start.config, settings)
            return logits_of(objective, cast(whole, dtypes), encoder, settings, mesh)

        signals = stage.signals(index, workdir, dataset.fingerprint, first_logits)
        quarantine = Quarantine(workdir / quarantined(), config.data.bad_lists)
        encoder = Encoder(dataset, index, prompt, start.config, settings, signals, quarantine)
        step = stage.step(objective, optimizer, state_places, frozen, mesh)
        evaluate = make_evaluation(
            config, objective, dataset, prompt, start.config, mesh, workdir, frozen
        )
        announce(config, workdir, mesh, start, trained, kept, plan, resumed.step)
        with Report(
            workdir,
            config.log.every_steps,
            config.schedule.steps,
            resumed.step,
            resumed.pending,
            resumed.history,
            stage.rule,
        ) as report:
            outcome = run(
                resumed,
                step,
                train_batches(
                    plan,
                    encoder,
                    mesh,
                    resumed.position,
                    config.data.workers,
                    config.data.prefetch,
                ),
                Schedule(
                    config.schedule.steps,
                    config.evaluation.every_steps,
                    config.checkpoint.every_steps,
                    config.log.profile_steps,
                ),
                checkpoints,
                report,
                manifest(config, prompt, start).to_json(),
                evaluate,
                config.evaluation.split,
            )
        if jax.process_index() == 0:
            best = checkpoints.best
            print(f"step {outcome.step}, best step {best}, {step.programs} compiled programs")
            if quarantine.qids:
                print(f"{len(quarantine.qids)} lists were left out: {quarantine.path}")
            print(f"export it: python -m train.export --workdir {workdir} --step best --out DIR")
    return outcome


def quarantined() -> str:
    """The name of this process's file of lists that were left out."""
    process = jax.process_index()
    return f"quarantine-{process}.jsonl" if process else "quarantine.jsonl"


def announce(
    config: TrainConfig,
    workdir: Path,
    mesh: Mesh,
    start: Start,
    trained: dict[str, Any],
    kept: dict[str, Any],
    plan: TrainPlan,
    step: int,
) -> None:
    """Say what is about to happen."""
    if jax.process_index():
        return
    sizes = {k: sum(x.size for x in v.values()) for k, v in (("t", trained), ("k", kept))}
    axes = " x ".join(f"{name} {size}" for name, size in mesh.shape.items())
    settings, data = plan.settings, config.data
    rows = settings.lists * settings.list_size * settings.shards * settings.micro_batches
    print(f"run {config.name} in {workdir}, step {step} of {config.schedule.steps}")
    print(f"devices: {jax.device_count()} x {jax.devices()[0].device_kind}, mesh {axes}")
    print(f"model: {sizes['t']:,} trained and {sizes['k']:,} frozen parameters, from {start.name}")
    lists = f"lists of {data.lists}" if data.lists else "lists"
    shown = "" if data.form == "native" else f", candidates as {data.form}"
    print(f"data: {data.source}, {len(plan.index)} {lists} of split {data.train_split}{shown}")
    print(f"update: {config.batch.lists} lists, {rows} pairs; batch shapes:")
    for bucket in plan.buckets:
        print(
            f"  {bucket.prefixes} queries of {bucket.prefix_tokens} tokens, {bucket.rows} "
            f"candidates of {bucket.tokens}, {bucket.cells} together, {bucket.images} images of "
            f"{bucket.patches} patches, {bucket.patch_cells} together"
        )
    print("loss: " + " + ".join(f"{weight} {name}" for name, weight in config.loss.items()))


def _check(config: TrainConfig) -> None:
    """Settings that contradict each other.

    Raises:
        ConfigError: all of them.
    """
    checks = (
        (config.loss and any(w > 0 for w in config.loss.values()), "loss: no positive weight"),
        (config.schedule.steps > 0, "schedule.steps must be positive"),
        (config.log.every_steps > 0, "log.every_steps must be positive"),
        (config.batch.chunks > 0, "batch.chunks must be at least 1"),
        (config.data.list_size > 1, "data.list_size must be at least 2"),
        (config.data.max_positives > 0, "data.max_positives must be at least 1"),
        (config.data.length_window > 0, "data.length_window must be at least 1"),
        (config.data.buckets > 0, "data.buckets must be at least 1"),
        (config.data.bad_lists >= 0, "data.bad_lists must be 0 or more"),
        (
            bool(config.data.preferences)
            or not any(config.loss.get(name) for name in ("preference", "centre")),
            "loss.preference and loss.centre need data.preferences",
        ),
        (
            bool(config.data.teacher) or not config.loss.get("teacher"),
            "loss.teacher needs data.teacher",
        ),
        (0 <= config.data.preference_noise < 1, "data.preference_noise must lie in [0, 1)"),
        (
            bool(config.data.lists) or not config.data.own_candidates,
            "data.own_candidates adds to the lists of a file; give data.lists too",
        ),
        (
            config.evaluation.metric in METRICS,
            f"evaluation.metric must be one of {', '.join(METRICS)}",
        ),
    )
    problems = [message for good, message in checks if not good]
    if problems:
        raise ConfigError("\n".join(problems))


if __name__ == "__main__":
    sys.exit(main())

"""Training of the published sizes, Qwen3-VL 2B, 4B and 8B, in every domain: full, and adapters.

The configurations of the domains offer them: `configs/sci.py:2b`, `configs/design.py:8b_lora`.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TypeVar

from train.settings import (
    BatchSettings,
    CheckpointSettings,
    LoRASettings,
    MeshSettings,
    ModelSettings,
    ScheduleSettings,
    TrainConfig,
)

Config = TypeVar("Config", bound=TrainConfig)

RATES = {"2b": 6e-6, "4b": 5e-6, "8b": 4e-6}  # learning rates of full tuning


def sizes(
    domain: str, base: TrainConfig, then: Callable[[TrainConfig], Config]
) -> dict[str, Callable[[], Config]]:
    """Builders of the configurations by name: each size, and each with adapters.

    base: gives what does not depend on the size, such as the data.
    then: makes a stage's configuration of one of training.
    """
    whole = {size: full(domain, base, size) for size in RATES}
    adapters = {f"{size}_lora": adapted(config) for size, config in whole.items()}
    adapters["2b_lora"] = on_one_gpu(adapters["2b_lora"])
    return {name: partial(then, config) for name, config in (whole | adapters).items()}


def full(domain: str, base: TrainConfig, size: str) -> TrainConfig:
    """Full tuning in bfloat16 with float32 masters, on a pod: parameters and moments are split over
    all devices (`fsdp`)."""
    return replace(
        base,
        name=f"{domain}_{size}",
        model=ModelSettings(
            init=f"Qwen/Qwen3-VL-{size.upper()}-Instruct",
            preset=size,
            compute_dtype="bfloat16",
            frozen_dtype="bfloat16",
            remat="full",
            unroll=False,
        ),
        data=replace(
            base.data,
            list_size=8,
            max_tokens=4096,
            max_query_tokens=512,
            min_visual_tokens=4,
            max_visual_tokens=512,
            buckets=8,
            workers=32,
            prefetch=8,
        ),
        batch=BatchSettings(lists=64, accumulate=1),
        label_smoothing=0.02,
        optimizer=replace(base.optimizer, lr=RATES[size], beta2=0.95),
        schedule=ScheduleSettings(steps=4000, warmup_steps=150, final_fraction=0.1),
        freeze=(),
        mesh=MeshSettings(data=1, fsdp=-1, tensor=1),
        evaluation=replace(base.evaluation, every_steps=500, lists=1000),
        checkpoint=CheckpointSettings(every_steps=250, keep=2),
    )


def adapted(base: TrainConfig) -> TrainConfig:
    """Adapters of rank 16 on the decoder's linear layers, everything else frozen."""
    return replace(
        base,
        name=base.name + "_lora",
        optimizer=replace(base.optimizer, lr=5e-5),
        lora=LoRASettings(rank=16, alpha=32.0, targets=r"text\.stage_\d+\.(q|k|v|o|gate|up|down)"),
    )


def on_one_gpu(base: TrainConfig) -> TrainConfig:
    """For one GPU of 24 GB: small images, one list at a time."""
    return replace(
        base,
        data=replace(base.data, max_tokens=2048, max_visual_tokens=256, workers=8),
        batch=BatchSettings(lists=16, accumulate=16),
    )

"""Stage 1 on design lists (furniture drawings, emoji, icons, clip art).

    python -m train.cloze --data DIR --lists 8000 --pictures 6000 --valid 300 --out runs/cloze
    python -m train.sft --config configs/design.py:cloze --set data.source=runs/cloze
    python -m train.retrieve --data DIR --dual-encoder results/m2/design-base --limit 12000 \\
        --texts 25 --images 25 --out runs/retrieve
    python -m train.sft --config configs/design.py --set data.source=DIR data.lists=FILE  # tiny
    python -m train.sft --config configs/design.py:2b       # Qwen3-VL-2B, full tuning, on a pod
    python -m train.sft --config configs/design.py:8b       # Qwen3-VL-8B, full tuning, on a pod
    python -m train.sft --config configs/design.py:2b_lora  # adapters, fits one 24 GB GPU

`DIR` is what `python -m unirank_jax.datasets.build design --out DIR` wrote. The tiny model starts
from the base of `configs/design_pretrain.py`; FILE is what `train.retrieve` printed. `cloze`
teaches the scientific model that the same words and the same picture speak for a candidate: of 16
it finds 47, 42 and 73 % (words, spans, pictures) after 300 updates, 10, 23 and 15 % before; that it
helps on the lists of the domain has not been shown. The same command again resumes.
"""

from dataclasses import replace

from configs import published, sci
from train.config import choose
from train.settings import ScheduleSettings, TrainConfig

SOURCE = "data/design"


def tiny() -> TrainConfig:
    """The try-out model: lists and losses of `configs/sci.py:full`, from the base of its domain."""
    base = sci.full()
    return replace(
        base,
        name="design_tiny",
        model=replace(base.model, init="results/m2/design-base"),
        data=replace(base.data, source=SOURCE),
        optimizer=replace(base.optimizer, lr=1e-3),
    )


def cloze() -> TrainConfig:
    """A leg on lists of `train.cloze`; the tower learns line drawings and clip art, too."""
    base = sci.cloze()
    return replace(
        base,
        name="design_cloze",
        model=replace(base.model, init="results/m2/stage1-sci"),
        freeze=(),
        optimizer=replace(base.optimizer, method="muon", lr=2e-3),
        schedule=ScheduleSettings(steps=300, warmup_steps=20, final_fraction=0.05),
        evaluation=replace(base.evaluation, every_steps=100, lists=300),
    )


def stage1() -> TrainConfig:
    """`configs/sci.py:stage1` for design, from the scientific model, lists of the domain beside
    those of `train.cloze`. It made results/m2/stage1-design, with the lists of a first stage:
    `--set data.lists=FILE, data.own_candidates=true` (the cloze lists have no such file)."""
    base = sci.stage1()
    return replace(
        base,
        name="design_stage1",
        schedule=replace(base.schedule, steps=1250),
        model=replace(base.model, init="results/m2/stage1-sci"),
        data=replace(base.data, source="data/design,runs/cloze-design"),
    )


def as_image() -> TrainConfig:
    """The baseline "everything as image", from the base of the domain."""
    return _in_form(sci.as_image(), "design_as_image")


def as_text() -> TrainConfig:
    """The baseline "everything as text"."""
    return _in_form(sci.as_text(), "design_as_text")


def _in_form(base: TrainConfig, name: str) -> TrainConfig:
    model = replace(base.model, init="results/m2/design-base")
    return replace(base, name=name, model=model, data=replace(base.data, source=SOURCE))


def published_base() -> TrainConfig:
    """What the published sizes have of the domain."""
    base = sci.tiny()
    return replace(base, data=replace(base.data, source=SOURCE))


def get_config(argument: str | None = None) -> TrainConfig:
    """One of the configurations above by its name; `tiny` without one."""
    return choose(
        argument,
        {
            "tiny": tiny,
            "cloze": cloze,
            "stage1": stage1,
            "as_image": as_image,
            "as_text": as_text,
            **published.sizes("design", published_base(), lambda config: config),
        },
        "tiny",
    )

"""Every number of a fine-tuning run, as frozen dataclasses that a config file returns. No JAX here.

A field's comment says what it means; train/config.py reads, overrides and compares them.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, Literal, TypeVar

from unirank_jax.datasets.forms import Form

LOSSES = (
    "bce",
    "rcr",
    "softmax",
    "ranknet",
    "vocab_ce",
    "preference",
    "centre",
    "adversary",
    "overlap",
    "pictures",
    "teacher",
)
Method = Literal["adamw", "muon"]


@dataclass(frozen=True)
class ModelSettings:
    """Where the network comes from and how it is computed."""

    init: str  # "base" (the embedded one), "scratch", a Hugging Face folder or id, or a workdir
    preset: str  # the shapes of init="scratch"
    compute_dtype: Literal["float32", "bfloat16"]
    frozen_dtype: Literal["float32", "bfloat16"]  # of the parameters that are not trained
    remat: Literal["none", "dots", "full"]
    unroll: bool  # write the layer loop out: faster on a CPU, slower to compile


@dataclass(frozen=True)
class DataSettings:
    """Which lists are read and how a list becomes tokens and patches."""

    source: str  # "sample:sci", a dataset folder or JSONL file; several with commas are joined
    train_split: str
    list_size: int  # candidates per training list
    max_positives: int  # relevant candidates per training list, at most
    min_other_modality: int  # negatives whose modality differs from the positive's, where there are
    prompt_id: str
    instruction: str  # "" = the default instruction of the prompt
    max_tokens: int  # of query and candidate together
    max_query_tokens: int
    min_visual_tokens: int
    max_visual_tokens: int
    kind_power: float  # of query kinds: n lists are drawn as n^kind_power; 1 = as they are
    length_window: int  # batches among which lists are grouped by length; 1 = no grouping
    buckets: int  # batch shapes, hence compiled programs, at most
    workers: int  # threads that read, decode and encode
    prefetch: int  # batches kept ready
    form: Form = "native"  # of the candidates
    lists: str = ""  # files of lists (train.mine) instead of the sources' own, as many with
    # commas, in their order; "" = its own
    preferences: str = ""  # a file of preferences (train.mine) for the losses that need them
    teacher: str = ""  # files of logits (train.teach) for the loss of that name, with commas
    own_candidates: bool = False  # with `lists`: add what the query's own list has besides
    bad_lists: int = 0  # training lists per process that may be left out as they cannot be read
    preference_noise: float = 0.0  # share of preferences turned round, to see what errors cost


@dataclass(frozen=True)
class BatchSettings:
    """Size of an update."""

    lists: int  # per update, over all devices
    accumulate: int  # micro-batches per update
    chunks: int = 1  # parts of a list, one in memory at a time (train.align alone)


@dataclass(frozen=True)
class OptimizerSettings:
    """AdamW or Muon, both after global-norm clipping.

    Muon (Jordan 2024) turns the momentum of every matrix into the nearest orthogonal one; scaled as
    in Moonlight (arXiv 2502.16982) it takes AdamW's learning rates. Embeddings, norms, biases, the
    patch projection and adapters stay with AdamW. Published weights were tuned with AdamW.
    """

    lr: float
    weight_decay: float
    beta1: float
    beta2: float
    eps: float
    clip_norm: float
    method: Method = "adamw"


@dataclass(frozen=True)
class ScheduleSettings:
    """Linear warm-up, then a cosine down to `final_fraction * lr` at the last step."""

    steps: int
    warmup_steps: int
    final_fraction: float


@dataclass(frozen=True)
class MeshSettings:
    """Devices along each axis; -1 (in one place) takes what is left."""

    data: int
    fsdp: int
    tensor: int


@dataclass(frozen=True)
class EvaluationSettings:
    """Evaluation during training."""

    split: str
    every_steps: int  # 0 = never
    lists: int  # at most this many, evenly spaced over the split
    list_size: int
    metric: str  # keeps the best checkpoint


@dataclass(frozen=True)
class CheckpointSettings:
    """How often the state is saved and how many steps are kept (the best is kept besides)."""

    every_steps: int
    keep: int


@dataclass(frozen=True)
class LogSettings:
    """How often a line goes to metrics.jsonl, and a profiler window (0, 0 = off)."""

    every_steps: int
    profile_steps: tuple[int, int]


@dataclass(frozen=True)
class LoRASettings:
    """Low-rank adapters; rank 0 = none. With a rank, only the adapters are trained."""

    rank: int
    alpha: float
    targets: str  # regular expression over whole layer paths


@dataclass(frozen=True)
class TrainConfig:
    """Everything that `train.sft` needs; a config file in `configs/` returns one."""

    name: str
    seed: int
    model: ModelSettings
    data: DataSettings
    batch: BatchSettings
    loss: dict[str, float] = field(metadata={"keys": LOSSES})
    target: Literal["binary", "graded"]  # relevant or not, or grade / max_grade
    max_grade: float
    label_smoothing: float
    optimizer: OptimizerSettings
    schedule: ScheduleSettings
    freeze: tuple[str, ...]  # regular expressions over parameter paths, e.g. r"vision\..*"
    lora: LoRASettings
    mesh: MeshSettings
    evaluation: EvaluationSettings
    checkpoint: CheckpointSettings
    log: LogSettings


Later = TypeVar("Later", bound=TrainConfig)


def extended(kind: type[Later], base: TrainConfig, **own: Any) -> Later:
    """The configuration of a later stage: everything of `base`, with the fields in `own`."""
    shared = {one.name: getattr(base, one.name) for one in fields(TrainConfig)}
    return kind(**shared | own)

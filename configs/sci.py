"""Stage 1 on scientific lists (molecules and captioned figures).

    python -m train.sft --config configs/sci.py          # tiny, embedded sample, any machine
    python -m train.sft --config configs/sci.py:open --set data.source=DIR  # the shipped default
    python -m train.sft --config configs/sci.py:open_lists --set data.source=DIR model.init=FIRST
    python -m train.sft --config configs/sci.py:2b       # Qwen3-VL-2B, full tuning, on a pod
    python -m train.sft --config configs/sci.py:8b       # Qwen3-VL-8B, full tuning, on a pod
    python -m train.sft --config configs/sci.py:2b_lora  # adapters, fits one 24 GB GPU

With the document first, so that a corpus can be kept (`Reranker.index`), from the same start:

    python -m train.sft --config configs/sci.py:document_first \\
        --set data.source=DIR model.init=FIRST

The same model on the full data, first beside lists that ask for common words alone, then with hard
negatives of a first stage:

    python -m train.cloze --data DIR --lists 12000 --valid 300 --out runs/cloze
    python -m train.sft --config configs/sci.py:mixed --set data.source=DIR,runs/cloze
    python -m train.retrieve --data DIR --dual-encoder unirank_jax/assets/base --limit 12000 \\
        --texts 25 --images 25 --out runs/retrieve
    python -m train.sft --config configs/sci.py:full \\
        --set data.source=DIR data.lists=FILE model.init=runs/sft-sci-mixed

A teacher of whole lists (text measures and a dual encoder) can join that leg:

    python -m train.teach --data DIR --lists FILE --own-candidates --out runs/teach.jsonl.gz \\
        --dual-encoder unirank_jax/assets/base
    python -m train.sft --config configs/sci.py:taught --set data.source=DIR data.lists=FILE \\
        data.teacher=runs/teach.jsonl.gz model.init=results/m2/stage1-sci

Or in one leg from the base, meant for an accelerator and not yet run to its end (also with the
document first, `stage1_document_first`):

    python -m train.sft --config configs/sci.py:stage1 --set data.source=DIR,runs/cloze

Two baselines of the last leg, the same updates on the same lists in another form of candidates
(a dataset built before needs `python -m unirank_jax.datasets.build sci --stand-ins-only`):

    python -m train.sft --config configs/sci.py:as_image --set data.source=DIR model.init=FIRST
    python -m train.sft --config configs/sci.py:as_text --set data.source=DIR model.init=FIRST
    python -m train.evaluate --data DIR --model native=runs/sft-sci-open_lists \
        image=runs/sft-sci-as_image:image text=runs/sft-sci-as_text:text
    python benchmarks/forms.py --data DIR --model ...  # the same models: milliseconds per list

On several hosts every process runs the same command on the same data, code and model; `--workdir`
and `data.source` are folders that all of them see (a bucket is mounted with gcsfuse). TPU pods,
Slurm and Open MPI are recognised:

    gcloud compute tpus tpu-vm ssh NAME --worker=all --command="cd unirank_jax && \\
        gcsfuse --implicit-dirs BUCKET /mnt/bucket && python -m train.sft \\
        --config configs/sci.py:8b --set data.source=/mnt/bucket/sci mesh.fsdp=16 \\
        --workdir /mnt/bucket/runs/8b"
    srun python -m train.sft --config configs/sci.py:8b --set mesh.data=-1 mesh.fsdp=8 \\
        --workdir /shared/8b                                     # nodes of 8 GPUs
    python -m train.sft --config configs/sci.py:8b --set mesh.fsdp=8  # one host of 8 x H100

By hand, on each host, before the command: JAX_COORDINATOR_ADDRESS=HOST0:1234 JAX_NUM_PROCESSES=4
JAX_PROCESS_ID=0 (to 3). Several TPU slices lie along `mesh.data`. Before a pod is paid for,
`--compile-only v6e:4x4` says whether the step fits its chips. SIGTERM saves; the same command
again, on as many hosts or fewer, goes on.

Add `--set data.source=DIR` for the full data, which `python -m unirank_jax.datasets.build` makes,
or for a folder of your own, and `--workdir DIR` to name the run's folder. The same command again
resumes. The published weights are fetched from the hub; `--set model.init=FOLDER` uses local ones.
"""

from dataclasses import replace

from configs import published
from train.config import choose
from train.settings import (
    BatchSettings,
    CheckpointSettings,
    DataSettings,
    EvaluationSettings,
    LogSettings,
    LoRASettings,
    MeshSettings,
    ModelSettings,
    OptimizerSettings,
    ScheduleSettings,
    TrainConfig,
)
from unirank_jax.prompt import DOCUMENT_FIRST

DEFAULT = "unirank_jax/assets/default"  # the reranker that ships with the package


def tiny() -> TrainConfig:
    """The try-out model on the embedded sample: minutes on two CPU cores."""
    return TrainConfig(
        name="sci_tiny",
        seed=0,
        model=ModelSettings(
            init="base",
            preset="tiny",
            compute_dtype="float32",
            frozen_dtype="float32",
            remat="none",
            unroll=True,
        ),
        data=DataSettings(
            source="sample:sci",
            train_split="train",
            list_size=8,
            max_positives=1,
            min_other_modality=2,
            prompt_id="unirank-native-1",
            instruction="",
            max_tokens=224,
            max_query_tokens=64,
            min_visual_tokens=16,
            max_visual_tokens=16,
            kind_power=1.0,
            length_window=32,
            buckets=3,
            workers=2,
            prefetch=4,
        ),
        batch=BatchSettings(lists=16, accumulate=1),
        loss={"bce": 1.0, "rcr": 0.5},
        target="binary",
        max_grade=1.0,
        label_smoothing=0.0,
        optimizer=OptimizerSettings(
            lr=1e-3, weight_decay=0.01, beta1=0.9, beta2=0.98, eps=1e-8, clip_norm=1.0
        ),
        schedule=ScheduleSettings(steps=180, warmup_steps=20, final_fraction=0.05),
        freeze=(r"vision\.(patch|table|stage_\d+).*",),  # the mergers stay free
        lora=LoRASettings(rank=0, alpha=32.0, targets=""),
        mesh=MeshSettings(data=-1, fsdp=1, tensor=1),
        evaluation=EvaluationSettings(
            split="valid", every_steps=90, lists=120, list_size=20, metric="hit@1"
        ),
        checkpoint=CheckpointSettings(every_steps=50, keep=2),
        log=LogSettings(every_steps=10, profile_steps=(0, 0)),
    )


def open_sources() -> TrainConfig:
    """The run that made the embedded default reranker: the tiny model on all open sources.

    It was planned for 3,500 updates and its cosine shortened to 2,600 at update 288.
    """
    base = tiny()
    return replace(
        base,
        name="sci_open",
        data=replace(base.data, source="data/sci-open", kind_power=0.5, buckets=6),
        schedule=ScheduleSettings(steps=2600, warmup_steps=40, final_fraction=0.02),
        evaluation=replace(base.evaluation, every_steps=650, lists=300),
        checkpoint=CheckpointSettings(every_steps=125, keep=2),
    )


def open_lists() -> TrainConfig:
    """The second leg of the embedded default: longer lists and a listwise loss.

    It starts from the exported first leg. The listwise term works across modalities: what the
    first leg lacked was the order of texts against images of one list. The run was planned for
    3,200 updates and its cosine shortened to 2,200 at update 869.
    """
    first = open_sources()
    return replace(
        first,
        name="sci_open_lists",
        model=replace(first.model, init="runs/sci-open-exported"),
        data=replace(first.data, list_size=12, min_other_modality=4),
        batch=BatchSettings(lists=12, accumulate=1),
        loss={"bce": 0.5, "softmax": 1.0},
        optimizer=replace(first.optimizer, lr=8e-4),
        schedule=ScheduleSettings(steps=2200, warmup_steps=40, final_fraction=0.02),
        evaluation=replace(first.evaluation, every_steps=700, lists=400),
    )


def mixed() -> TrainConfig:
    """The shipped default on the full sci and lists of `train.cloze`.

    Passages and captions are few among molecules; cloze lists ask for words that come up again.
    """
    lists = open_lists()
    return replace(
        lists,
        name="sci_mixed",
        model=replace(lists.model, init=DEFAULT),
        data=replace(lists.data, source="data/sci,runs/cloze", list_size=16, kind_power=0.4),
        batch=BatchSettings(lists=12, accumulate=1),
        schedule=ScheduleSettings(steps=2400, warmup_steps=40, final_fraction=0.02),
        evaluation=replace(lists.evaluation, every_steps=400, lists=500),
        checkpoint=CheckpointSettings(every_steps=100, keep=2),
    )


def full() -> TrainConfig:
    """The shipped default, tuned on the full sci: its lists and what a first stage finds.

    Lists of constructed negatives alone do not prepare for those of a whole pool (`--lists top100`
    of `train.evaluate`), so both are drawn from.
    """
    lists = open_lists()
    return replace(
        lists,
        name="sci_full",
        model=replace(lists.model, init=DEFAULT),
        data=replace(lists.data, source="data/sci", list_size=16, own_candidates=True),
        batch=BatchSettings(lists=9, accumulate=1),
        optimizer=replace(lists.optimizer, lr=5e-4),
        schedule=ScheduleSettings(steps=2400, warmup_steps=40, final_fraction=0.02),
        evaluation=replace(lists.evaluation, every_steps=800),
    )


def taught() -> TrainConfig:
    """`full` with longer lists, more of each kind, and a teacher of the whole order.

    Where cards, drawings and both in one compete for a place, as in a whole pool, constructed lists
    alone teach to prefer the form and not the object.
    """
    lists = full()
    return replace(
        lists,
        name="sci_taught",
        data=replace(lists.data, list_size=24, kind_power=0.4, length_window=1),
        batch=BatchSettings(lists=8, accumulate=1),
        loss={"bce": 0.25, "softmax": 1.0, "teacher": 1.0},
        schedule=ScheduleSettings(steps=1000, warmup_steps=40, final_fraction=0.02),
        evaluation=replace(lists.evaluation, every_steps=500),
        checkpoint=CheckpointSettings(every_steps=100, keep=2),
    )


def stage1() -> TrainConfig:
    """From the base in one leg, with Muon and the tower trained too: lists of the dataset and of
    `train.cloze`; `--set data.lists=FILE data.own_candidates=true` adds those of a first stage. It
    has not been run to its end."""
    lists = full()
    return replace(
        lists,
        name="sci_stage1",
        model=replace(lists.model, init="base", unroll=False),
        data=replace(
            lists.data,
            source="data/sci,runs/cloze",
            own_candidates=False,
            kind_power=0.4,
            length_window=1,
            max_tokens=288,  # that the document may come first, too
            buckets=4,
        ),
        batch=BatchSettings(lists=16, accumulate=1),
        optimizer=replace(lists.optimizer, method="muon", lr=2e-3),
        schedule=ScheduleSettings(steps=2000, warmup_steps=40, final_fraction=0.02),
        freeze=(),
        evaluation=replace(lists.evaluation, every_steps=0),
        checkpoint=CheckpointSettings(every_steps=1000, keep=1),
    )


def stage1_document_first() -> TrainConfig:
    """`stage1` with the document first."""
    lists = stage1()
    return replace(
        lists,
        name="sci_stage1_document_first",
        data=replace(lists.data, prompt_id=DOCUMENT_FIRST),
    )


def cloze() -> TrainConfig:
    """A leg on lists of `train.cloze`: words of the query that occur in a candidate count."""
    lists = open_lists()
    return replace(
        lists,
        name="sci_cloze",
        model=replace(lists.model, init=DEFAULT),
        data=replace(
            lists.data, source="runs/cloze", list_size=16, min_other_modality=0, kind_power=1.0
        ),
        batch=BatchSettings(lists=16, accumulate=1),
        optimizer=replace(lists.optimizer, lr=1e-3),
        schedule=ScheduleSettings(steps=1000, warmup_steps=40, final_fraction=0.02),
        evaluation=replace(lists.evaluation, every_steps=250, list_size=16),
    )


def document_first() -> TrainConfig:
    """`open_lists` with the document first: `Reranker.index` keeps what it makes of a corpus."""
    lists = open_lists()
    return replace(
        lists,
        name="sci_document_first",
        data=replace(lists.data, prompt_id=DOCUMENT_FIRST, max_tokens=288),
    )


def as_image() -> TrainConfig:
    """The baseline "everything as image": texts are drawn, at 12 pixels and 64 visual tokens.

    A passage of 600 characters fits in letters of 9 pixels. The tower is trained too, since it has
    never seen letters: native scoring does without that.
    """
    native = open_lists()
    return replace(
        native,
        name="sci_as_image",
        data=replace(native.data, form="image", max_visual_tokens=64),
        freeze=(),
    )


def as_text() -> TrainConfig:
    """The baseline "everything as text": stand-ins instead of images, queries as they are."""
    native = open_lists()
    return replace(native, name="sci_as_text", data=replace(native.data, form="text"))


def get_config(argument: str | None = None) -> TrainConfig:
    """One of the configurations above by its name; `tiny` without one."""
    sizes = {
        "tiny": tiny,
        "open": open_sources,
        "open_lists": open_lists,
        "mixed": mixed,
        "full": full,
        "taught": taught,
        "cloze": cloze,
        "stage1": stage1,
        "stage1_document_first": stage1_document_first,
        "document_first": document_first,
        "as_image": as_image,
        "as_text": as_text,
        **published.sizes("sci", tiny(), lambda config: config),
    }
    return choose(argument, sizes, "tiny")

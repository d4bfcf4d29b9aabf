"""`unirank ckpt verify`: whether the checkpoints of a run can be read back, step by step.

Nothing is changed, so a run that is going on may be looked at.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from pathlib import Path

import jax
import numpy as np

from train.checkpoint import CheckpointError, Checkpoints


def verify(workdir: Path) -> Iterator[tuple[str, bool]]:
    """A line for every complete step, and whether it is whole.

    Raises:
        CheckpointError: the folder has no checkpoints.
    """
    if not (workdir / "checkpoints").is_dir():
        raise CheckpointError(f"{workdir} holds no checkpoints; give the --workdir of a run")
    with Checkpoints(workdir, 1, "", reading=True) as checkpoints:
        if not checkpoints.steps:
            raise CheckpointError(f"{workdir}: no complete step; the run has not saved one yet")
        for step in checkpoints.steps:
            problems = checkpoints.problems(step)
            if problems:
                yield f"step {step}: {'; '.join(problems)}", False
                continue
            leaves = jax.tree.leaves(checkpoints.abstract(step))
            size = sum(prod(leaf.shape) * np.dtype(leaf.dtype).itemsize for leaf in leaves)
            meta = checkpoints.meta(step)
            told = f"{len(leaves)} arrays, {size / 2**20:.1f} MiB, all finite"
            yield f"step {step}: {told}; {meta.position} batches of data", True

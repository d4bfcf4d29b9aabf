"""A safetensors file written tensor by tensor, so that no second copy of a model is in memory.

The library's own writer wants all tensors of a file at once. The format (its README, "Format"): the
length of the header as 8 bytes, little-endian; a JSON header, padded with spaces to 8 bytes, that
maps names to dtype, shape and offsets; then the bytes of the tensors, without gaps.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

CODES = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}


def write_tensors(
    path: Path,
    shapes: Mapping[str, Sequence[int]],
    get: Callable[[str], np.ndarray],
    dtype: np.dtype,
) -> None:
    """Write tensors of one dtype in the order of `shapes`.

    get: the tensor of a name, in any dtype; one at a time is held.

    Raises:
        ValueError: a dtype without a code, or a tensor of another shape than announced.
    """
    if dtype.name not in CODES:
        raise ValueError(f"dtype {dtype.name} is not written; choose one of {', '.join(CODES)}")
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + int(np.prod(shape)) * dtype.itemsize
        code = CODES[dtype.name]
        header[name] = {"dtype": code, "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, shape in shapes.items():
            tensor = np.ascontiguousarray(get(name), dtype)
            if tensor.shape != tuple(shape):
                raise ValueError(f"{name} is {tensor.shape}, announced as {tuple(shape)}")
            tensor.tofile(file)

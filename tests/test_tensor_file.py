"""Files that are written tensor by tensor, as the safetensors library reads them."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors import safe_open

from unirank_jax.tensor_file import write_tensors

TENSORS = {
    "a": np.arange(6, dtype=np.float32).reshape(2, 3).T / 3,  # not contiguous
    "b": np.array([1.5], np.float64),
    "c": np.zeros((0, 4), np.float32),
}
SHAPES = {name: tensor.shape for name, tensor in TENSORS.items()}


@pytest.mark.parametrize("name", ["float32", "bfloat16", "float16"])
def test_the_library_reads_what_was_written(name: str, tmp_path: Path) -> None:
    kind = np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name)
    asked: list[str] = []

    def get(key: str) -> np.ndarray:
        asked.append(key)
        return TENSORS[key]

    write_tensors(tmp_path / "x.safetensors", SHAPES, get, kind)
    assert asked == list(TENSORS)  # once each, in turn
    with safe_open(tmp_path / "x.safetensors", framework="np") as file:
        assert sorted(file.keys()) == sorted(TENSORS) and file.metadata() == {"format": "pt"}
        for key, tensor in TENSORS.items():
            found = file.get_tensor(key)
            assert found.dtype == kind
            np.testing.assert_array_equal(found, tensor.astype(kind))


def test_what_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"b is \(1,\), announced as \(2,\)"):
        shapes = {**SHAPES, "b": (2,)}
        write_tensors(tmp_path / "x", shapes, TENSORS.__getitem__, np.dtype("float32"))
    with pytest.raises(ValueError, match="int8 is not written; choose one of float32"):
        write_tensors(tmp_path / "y", SHAPES, TENSORS.__getitem__, np.dtype("int8"))

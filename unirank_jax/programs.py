"""Compiled programs that outlive the process."""

from __future__ import annotations

from pathlib import Path

import jax
from jax.experimental.compilation_cache import compilation_cache


def keep_programs(folder: Path) -> None:
    """Keep compiled programs in a folder, so that the next process does not compile them again.

    The folder must be as trusted as the code: executables are loaded from it.
    """
    compilation_cache.reset_cache()  # or the first folder of a process would stay
    jax.config.update("jax_compilation_cache_dir", str(folder.absolute()))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)

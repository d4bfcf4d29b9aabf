"""Makes torchvision importable beside a CPU build of torch that it was not compiled against.

Its Python code registers shape rules for compiled operators that are then absent; declaring the
operators is enough, because nothing here calls them. Does nothing where torchvision imports.
"""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path

import torch

_declared: list[torch.library.Library] = []  # a library that is collected takes its operators along


def declare() -> bool:
    """Declare the absent operators, once and before transformers; False: not installed."""
    found = importlib.util.find_spec("torchvision")
    if found is None or found.origin is None:
        return False
    if _declared or "torchvision" in sys.modules:
        return True
    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        rules = (Path(found.origin).parent / "_meta_registrations.py").read_text()
        library = torch.library.Library("torchvision", "DEF")
        for name in re.findall(r'register_fake\("torchvision::(\w+)"\)', rules):
            library.define(f"{name}(Tensor x) -> Tensor")
        _declared.append(library)
        import torchvision  # noqa: F401
    return True

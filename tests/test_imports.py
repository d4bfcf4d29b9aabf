"""Which file may import what: the dependency direction, and what the package must never do.

Read from the syntax trees of all files, and for the host modules also from a fresh interpreter.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DEVICE = {"jax", "jaxlib", "flax", "optax", "orbax", "chex"}
HOST = (
    "content",
    "prompt",
    "tokenizer",
    "images",
    "packing",
    "batch",
    "buckets",
    "works",
    "intake",
    "metrics",
    "significance",
    "config",
    "datasets",
)
# Heavy or risky libraries and the only files that may import them.
OWNERS = {
    "orbax": {"train/checkpoint.py"},
    "safetensors": {"unirank_jax/weights.py", "unirank_jax/export.py"},
    "huggingface_hub": {"unirank_jax/hub.py"},
    "bm25s": {"train/lexical.py"},
    "tensorboardX": {"train/report.py"},
}
# Networking goes through huggingface_hub alone; nothing that runs code stored in a file.
FORBIDDEN = {
    "requests",
    "httpx",
    "aiohttp",
    "urllib3",
    "urllib.request",
    "http.client",
    "ftplib",
    "pickle",
    "cPickle",
    "dill",
    "cloudpickle",
    "joblib",
    "marshal",
    "shelve",
}
# Import names whose distribution has another name.
DISTRIBUTIONS = {"PIL": "pillow", "orbax": "orbax-checkpoint", "array_record": "array-record"}


def product_files() -> list[Path]:
    files = [
        path
        for folder in ("unirank_jax", "train", "configs")
        for path in sorted((ROOT / folder).rglob("*.py"))
    ]
    assert len(files) > 20
    return files


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def imports(path: Path, module_level_only: bool = False) -> set[str]:
    """Full dotted names that a file imports; imports for type checking only do not count."""
    found: set[str] = set()
    pending: list[ast.AST] = [tree(path)]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name(path)}:{node.lineno}: write absolute imports"
            module = node.module or ""
            found.add(module)
            found.update(f"{module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            pending.extend(node.orelse)
            continue
        elif module_level_only and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        pending.extend(ast.iter_child_nodes(node))
    return found


def top(names: set[str]) -> set[str]:
    return {one.partition(".")[0] for one in names}


def host_files() -> list[Path]:
    found = []
    for module in HOST:
        path = ROOT / "unirank_jax" / module
        files = sorted(path.rglob("*.py")) if path.is_dir() else [path.with_suffix(".py")]
        assert files and all(file.is_file() for file in files), f"{module}: no such module"
        found += files
    return found


def dotted(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def test_host_files_import_no_jax_anywhere():
    for path in host_files():
        assert not top(imports(path)) & DEVICE, name(path)


def test_host_modules_leave_jax_out_of_a_fresh_interpreter():
    """Transitively: importing all of them, and the package itself, loads no JAX."""
    modules = ["unirank_jax", *(dotted(path) for path in host_files())]
    program = (
        "import importlib, sys\n"
        f"for module in {modules!r}:\n"
        "    importlib.import_module(module)\n"
        f"    loaded = sorted({DEVICE!r} & sys.modules.keys())\n"
        "    assert not loaded, f'importing {module} loads {loaded}'\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr


def test_the_library_never_imports_the_training_program():
    for path in product_files():
        if name(path).startswith("unirank_jax/"):
            assert not top(imports(path)) & {"train", "configs", "tests", "benchmarks"}, name(path)
        assert not top(imports(path)) & {"tests", "benchmarks"}, name(path)


@pytest.mark.parametrize("library", OWNERS)
def test_one_owner_per_library(library):
    users = {name(path) for path in product_files() if library in top(imports(path))}
    assert users <= OWNERS[library]
    assert users, f"nothing imports {library}: drop it here and in pyproject.toml"


def test_no_network_client_and_no_code_from_files():
    for path in product_files():
        assert not (imports(path) | top(imports(path))) & FORBIDDEN, name(path)


def test_nothing_trusts_remote_code_or_unpickles():
    for path in product_files():
        for node in ast.walk(tree(path)):
            place = f"{name(path)}:{getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
                assert ast.unparse(node.value) == "False", place
            if isinstance(node, ast.keyword):
                assert node.arg != "trust_remote_code", place
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called not in ("torch.load", "eval", "exec", "compile"), place
            if isinstance(node, ast.Constant):
                assert node.value != "trust_remote_code", place


def test_no_import_cycle_at_module_level():
    files = {dotted(path): path for path in product_files()}
    edges = {
        module: {one for one in imports(path, module_level_only=True) if one in files} - {module}
        for module, path in files.items()
    }
    done: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, " -> ".join((*trail, module))
        if module not in done:
            for target in sorted(edges[module]):
                visit(target, (*trail, module))
            done.add(module)

    for module in sorted(files):
        visit(module, ())


def test_every_third_party_import_is_a_declared_dependency():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    data = project["optional-dependencies"]["data"]

    def names(requirements):
        return {re.match(r"[\w-]+", one).group().lower() for one in requirements}

    base, optional = names(project["dependencies"]), names(data)
    for path in product_files():
        for library in top(imports(path)) - {"unirank_jax", "train", "configs"}:
            if library in sys.stdlib_module_names:
                continue
            needed = DISTRIBUTIONS.get(library, library).lower().replace("_", "-")
            datasets = name(path).startswith("unirank_jax/datasets/")
            assert needed in base or (datasets and needed in optional), f"{name(path)}: {library}"


def test_pins_cover_every_declared_dependency():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    pinned = set(re.findall(r"^([\w-]+)==", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    for one in (*project["dependencies"], *extras["test"], *extras["data"]):
        assert re.match(r"[\w-]+", one).group().lower() in pinned, one

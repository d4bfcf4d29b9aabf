"""Training steps of published sizes on TPU pods, from compilation alone: does it fit, how fast.

    TPU_LIBRARY_PATH=.../libtpu.so python -m benchmarks.pods --out results/m5/pods.json
    ... python -m benchmarks.pods --out results/m5/pods.json --only 8b:v6e:4x4

Lists of 16 candidates of 1,280 visual tokens, a list a chip, parameters over all chips (8B's over
half of 256: its tower's width does not divide). Full tuning on 16 and 64 chips is compiled to its
end, five minutes each; the rest up to machine code, a minute each, which memory, cost and kernels
do not depend on. Rows that the file has already are kept. Nothing runs on a TPU
(train/compile_only.py).
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from math import gcd
from pathlib import Path
from typing import Any

import numpy as np

from train.compile_only import GIB, Plan, plan, remedy
from train.config import load
from train.stage import SupervisedStage
from train.tpu_program import EstimateError
from unirank_jax.config import preset
from unirank_jax.datasets.formats.writing import write_lines

SIZES = ("2b", "2b_lora", "4b", "4b_lora", "8b", "8b_lora")
TOPOLOGIES = ("v5e:4x4", "v5e:16x16", "v6e:4x4", "v6e:16x16", "v5p:4x4x4")
CANDIDATES, VISUAL = 16, 1280
TERMS = ("products", "memory", "kernels", "links", "total")  # of the seconds

Row = dict[str, Any]


def main() -> None:
    """The command; exit status 1 where a row could not be made."""
    arguments = _parser().parse_args()
    path = Path(arguments.out)
    rows: list[Row] = json.loads(path.read_text())["rows"] if path.exists() else []
    failed = False
    for size in SIZES:
        for topology in TOPOLOGIES:
            name = f"{size}:{topology}"
            known = any(row["name"] == name for row in rows)
            if known or (arguments.only and name not in arguments.only):
                continue
            began = time.perf_counter()
            try:
                row = estimated(name, size, topology)
            except EstimateError as error:
                print(f"{name}: {error}", file=sys.stderr)
                failed = True
                continue
            rows.append({**row, "compiled_in_s": round(time.perf_counter() - began)})
            path.parent.mkdir(parents=True, exist_ok=True)
            write_lines(path, [json.dumps({"rows": rows}, indent=1), "\n"])
    print(render(rows))
    sys.exit(1 if failed else 0)


def estimated(name: str, size: str, topology: str) -> Row:
    """One row: the plan of `--compile-only` in numbers."""
    chips = int(np.prod([int(n) for n in topology.partition(":")[2].split("x")]))
    settings = [
        f"data.max_visual_tokens={VISUAL}",
        f"data.list_size={CANDIDATES}",
        f"batch.lists={chips}",
        "batch.accumulate=1",
        "mesh.fsdp=-1",
    ]
    width = preset(size.removesuffix("_lora")).vision.width  # 1152 does not divide by 256
    settings.append(f"mesh.data={chips // gcd(chips, width)}")
    config = load(f"configs/sci.py:{size}", settings)
    to_its_end = chips <= 64 and not config.lora.rank
    found = plan(config, topology, SupervisedStage(config).step, machine_code=to_its_end)
    return {
        "name": name,
        "machine_code": to_its_end and found.fits,
        "mesh": found.mesh,
        **_memory(found),
        "fits": found.fits,
        "remedy": "" if found.fits else remedy(config, found),
        "kernels": found.kernels,
        "seconds": {n: round(getattr(found.seconds, n), 3) for n in TERMS},
        "mfu": round(found.mfu, 3),
    }


def _memory(found: Plan) -> Row:
    kinds = ("trained", "moments", "frozen", "batch", "temporaries", "total")
    return {f"{kind}_gib": round(getattr(found.memory, kind) / GIB, 2) for kind in kinds}


def render(rows: list[Row]) -> str:
    """A Markdown table."""
    head = ["model", "topology", "GiB a chip", "fits", "splash calls"]
    head += ["products s", "memory s", "kernels s", "links s", "step s", "MFU"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for row in rows:
        size, _, topology = row["name"].partition(":")
        took = [f"{row['seconds'][name]:.2f}" for name in TERMS]
        cells = [size, topology, f"{row['total_gib']:.1f}", "yes" if row["fits"] else "no"]
        cells += [str(row["kernels"]), *took, f"{100 * row['mfu']:.0f} %"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.pods",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", required=True, help="a JSON file, read first where it exists")
    parser.add_argument("--only", nargs="+", metavar="SIZE:TOPOLOGY", help="these rows")
    return parser


if __name__ == "__main__":
    main()

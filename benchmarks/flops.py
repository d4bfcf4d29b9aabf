"""FLOP that is needed: the query once, no padding, the last layer at the label."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.workloads import Workload
from unirank_jax.config import ModelConfig
from unirank_jax.content import parse
from unirank_jax.prompt import Encoded
from unirank_jax.reranker import Reranker


def needed(ours: Reranker, workload: Workload, *, seen: bool = False) -> float:
    """Multiply-adds times two: decoder, attention, tower and mergers; static prompts are free.

    Every picture of a list counts, as without a cache of features, but once in its list; none that
    were `seen`.
    """
    config = ours.engine.config
    total = 0.0
    for query, candidates in zip(workload.queries, workload.lists, strict=True):
        prefix = ours.prompt.prefix(parse(query, "query"))
        static = len(ours.prompt.static().tokens)
        own = len(prefix.tokens) - static
        total += sequence(config, own, static, last=0)
        images = {image.digest: len(image.pixels) for image in prefix.images}
        for candidate in candidates:
            parts = parse(candidate, "candidate")
            row = ours.prompt.candidate(parts, "candidate", len(prefix.tokens))
            total += sequence(config, len(row.tokens), len(prefix.tokens), last=1)
            images |= {image.digest: len(image.pixels) for image in row.images}
        total += 0.0 if seen else sum(tower(config, patches) for patches in images.values())
    return total


def of_update(config: ModelConfig, groups: Sequence[tuple[Encoded, Sequence[Encoded]]]) -> float:
    """An update of all parameters on queries with their candidates: three times the forward pass.

    The static prompt counts, since its keys and values change with every update; the optimizer,
    which computes little and moves much memory, does not.
    """
    total = 0.0
    images: dict[bytes, int] = {}
    for prefix, rows in groups:
        total += sequence(config, len(prefix.tokens), 0, last=0)
        total += sum(sequence(config, len(r.tokens), len(prefix.tokens), last=1) for r in rows)
        shown = [image for one in (prefix, *rows) for image in one.images]
        images |= {image.digest: len(image.pixels) for image in shown}
    return 3.0 * (total + sum(tower(config, patches) for patches in images.values()))


def sequence(config: ModelConfig, tokens: int, before: int, last: int) -> float:
    """FLOP of `tokens` tokens after `before` others, of which `last` pass the last layer."""
    text = config.text
    own, shared = text.heads * text.head_dim, text.kv_heads * text.head_dim
    keys = 2 * text.width * shared
    rest = 2 * text.width * own + 3 * text.width * text.mlp_width
    read = tokens * before + tokens * (tokens + 1) / 2  # (query, key) pairs
    layer = tokens * (keys + rest) + 2 * read * own
    final = tokens * keys + last * (rest + 2 * (before + tokens) * own)
    return 2.0 * ((text.depth - 1) * layer + final)


def tower(config: ModelConfig, patches: int) -> float:
    """FLOP of one image: patch projection, blocks, mergers."""
    vision = config.vision
    width, unit = vision.width, vision.merge_unit
    block = patches * (4 * width**2 + 2 * width * vision.mlp_width) + 2 * patches**2 * width
    joined = unit * width
    mergers = (1 + len(vision.deepstack_layers)) * (patches / unit)
    merging = mergers * (joined**2 + joined * vision.out_width)
    return 2.0 * (patches * vision.patch_dim * width + vision.depth * block + merging)

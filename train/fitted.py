"""What a reranker adds to a search engine whose own scores are kept: both, weighed by a fit.

Whoever reranks has the scores of the first stage at hand. Here the logits of each model are joined
with the baselines' scores by a conditional logit (train/teacher.py) that is fitted to one half of
the lists and judged on the other. The baselines alone, fitted in the same way, are the control:
what a model is above them, it adds; what they are above each of them, any fit would bring.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from train.baselines import Scorer, Scores
from train.config import ConfigError
from train.teacher import cross_fitted
from unirank_jax.datasets.records import Example

CONTROL = "baselines, fitted"
JOINED = "{} + baselines"


def with_baselines(
    models: Mapping[str, Scorer], baselines: Mapping[str, Scorer]
) -> tuple[dict[str, Scorer], dict[str, Scorer], dict[str, Scorer]]:
    """(models, baselines, fits): nothing scores the same lists twice where all three are used.

    Fits are `CONTROL`, and `JOINED` of each model. A baseline that says the same of all candidates
    has no part in them.
    """
    models = {name: _remembered(scorer) for name, scorer in models.items()}
    baselines = {name: _remembered(scorer) for name, scorer in baselines.items()}
    fits = {CONTROL: _fit(baselines)}
    fits |= {JOINED.format(name): _fit({**baselines, name: models[name]}) for name in models}
    return models, baselines, fits


def _fit(scorers: Mapping[str, Scorer]) -> Scorer:
    def score(examples: Sequence[Example]) -> Scores:
        measures = {name: scorer(examples) for name, scorer in scorers.items()}
        varied = {name: values for name, values in measures.items() if _varies(values)}
        if not varied:
            raise ConfigError("--fit: every baseline gives all candidates one score; leave it out")
        try:
            return cross_fitted(varied, examples)
        except ValueError as error:
            raise ConfigError(f"--fit: half of the lists cannot be fitted: {error}") from None

    return score


def _varies(values: Scores) -> bool:
    return bool(np.concatenate(values).std() > 0)


def _remembered(scorer: Scorer) -> Scorer:
    """The same scorer, asked once for each set of lists."""
    known: dict[tuple[str, ...], Scores] = {}

    def score(examples: Sequence[Example]) -> Scores:
        key = tuple(example.query.qid for example in examples)
        if key not in known:
            known[key] = scorer(examples)
        return known[key]

    return score

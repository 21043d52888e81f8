"""Update strategies by their name in the configuration."""

from __future__ import annotations

from collections.abc import Mapping

from segp_cl.config import StrategyName
from segp_cl.learn.strategies.base import Strategy
from segp_cl.learn.strategies.merge import learn_merge, learn_segp_and_merge
from segp_cl.learn.strategies.naive import learn_naive
from segp_cl.learn.strategies.prototypes import learn_prototypes
from segp_cl.learn.strategies.segp import learn_segp

STRATEGIES: Mapping[StrategyName, Strategy] = {
    "segp": learn_segp,
    "merge": learn_merge,
    "segp+merge": learn_segp_and_merge,
    "naive": learn_naive,
    "prototypes": learn_prototypes,
}

__all__ = ["STRATEGIES", "Strategy"]

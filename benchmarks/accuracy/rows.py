"""The table's rows: which training each one reads, and by which path it answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

from pydantic import ValidationError

from segp_cl.config import PRESETS, LearnerConfig, StrategyName
from segp_cl.errors import KeepsightError

Path = Literal["text", "visual", "fused"]


class UnknownRowError(KeepsightError):
    """A row was asked for that does not exist."""


class InvalidSettingError(KeepsightError, ValueError):
    """There is no such hyper-parameter, or it cannot have this value."""


@dataclass(frozen=True)
class Training:
    """One way to learn all tasks. Rows that differ only in how they answer share it.

    `settings` are laid over the benchmark's own. `together` learns all tasks as one, `frozen` none at all; `tuned` lays
    what was best on the validation slice over that. `branches` learns the tasks after the first in pairs, both of a
    pair on one state, and merges what comes of them. `head` names one of `benchmarks.accuracy.heads.kinds.HEADS`,
    solved after every task on frozen features: the untouched model's or, with `first_session`, those of the model that
    was trained on the first task.
    """

    settings: Mapping[str, Any] = field(default_factory=dict)
    together: bool = False
    frozen: bool = False
    tuned: bool = False
    branches: bool = False
    head: str | None = None
    first_session: bool = False


@dataclass(frozen=True)
class Row:
    """A row: a training by name, and the path that answers."""

    training: str
    path: Path


NAIVE_GRID = {"learning_rate_factor": (0.3, 1.0, 3.0), "epochs": (2, 5, 10)}
PAPER = {"whiten": False, "align_steps": 0, "fusion_weight": 0.5, "drift_ridge": None}
"""What the paper does not have, switched off, and its beta: for the steps of its ablation, at our rates and sizes."""

_TRAININGS: Mapping[str, Training] = {
    "frozen": Training(frozen=True),
    "prototypes": Training({"strategy": "prototypes", "whiten": False}),
    "prototypes-whitened": Training({"strategy": "prototypes"}),
    "ridge": Training(head="ridge"),
    "ranpac-2000": Training(head="ranpac-2000"),
    "ranpac-10000": Training(head="ranpac-10000"),
    "gda+text": Training(head="gda+text"),
    "first-session": Training({"strategy": "naive"}, head="ridge", first_session=True),
    "naive": Training({"strategy": "naive"}),
    "naive-tuned": Training({"strategy": "naive"}, tuned=True),
    "acgd": Training({"strategy": "segp", **PAPER, "lambda_tsgr": 0.0, "transfer_prototypes": False}),
    "acgd+tsgr": Training({"strategy": "segp", **PAPER, "transfer_prototypes": False}),
    "ladder": Training({"strategy": "segp", **PAPER}),
    "paper": Training({"preset": "paper"}),
    "merge-unaligned": Training({"strategy": "merge", "merge_period": None}),
    "merge": Training({"strategy": "merge"}),
    "segp+merge": Training({"strategy": "segp+merge"}),
    "segp": Training({"strategy": "segp"}),
    "branches": Training({"strategy": "segp"}, branches=True),
    "joint": Training({"strategy": "naive"}, together=True),
}
TRAININGS: Mapping[str, Training] = {
    **_TRAININGS,
    **{
        f"{name}-moving": replace(_TRAININGS[name], settings={**_TRAININGS[name].settings, **PRESETS["moving"]})
        for name in ("naive", "acgd", "acgd+tsgr", "ladder", "segp", "joint")
    },
}

ROWS: Mapping[str, Row] = {
    "zero-shot": Row("frozen", "text"),  # the untouched model
    "prototypes": Row("prototypes", "visual"),  # frozen image tower, nearest class mean
    "prototypes-whitened": Row("prototypes-whitened", "visual"),  # the same, whitened as segp's are
    "ridge": Row("ridge", "visual"),  # frozen image tower, ridge head from sums
    "ranpac-2000": Row("ranpac-2000", "visual"),  # the same on 2,000 random features
    "ranpac-10000": Row("ranpac-10000", "visual"),  # the same on 10,000
    "gda+text": Row("gda+text", "fused"),  # Gaussian discriminant analysis and the untouched text path
    "first-session": Row("first-session", "visual"),  # LoRA on the first task only, then as ridge
    "naive": Row("naive", "text"),  # LoRA, cross-entropy only
    "naive-fused": Row("naive", "fused"),  # with its visual path
    "naive-tuned": Row("naive-tuned", "text"),  # the same at its own best rate and epochs
    "acgd": Row("acgd", "text"),  # naive + ACGD
    "acgd+tsgr": Row("acgd+tsgr", "text"),  # naive + ACGD + TSGR
    "segp-visual-stale": Row("acgd+tsgr", "visual"),  # its prototypes, left where they were
    "segp-visual": Row("ladder", "visual"),  # prototypes moved with the anchors
    "ladder": Row("ladder", "fused"),  # the ladder's end: both paths, beta 0.5
    "segp-paper": Row("paper", "fused"),  # the same with every value of the paper's
    "segp-text": Row("segp", "text"),  # the full method with what is ours: text path
    "segp-whitened": Row("segp", "visual"),  # its visual path
    "merge-unaligned": Row("merge-unaligned", "text"),  # naive, averaged into the adapters before
    "merge": Row("merge", "text"),  # the same, aligned with them while it is trained
    "merge-fused": Row("merge", "fused"),  # with its visual path
    "segp+merge-text": Row("segp+merge", "text"),  # segp's losses and head alignment, merged: text path
    "segp+merge": Row("segp+merge", "fused"),  # both paths
    "segp": Row("segp", "fused"),  # both paths, beta from kept-back images
    "branches-text": Row("branches", "text"),  # segp on two branches at a time, merged: text path
    "branches": Row("branches", "fused"),  # both paths
    "joint": Row("joint", "fused"),  # all tasks at once: the ceiling
    "naive-moving": Row("naive-moving", "text"),  # the ladder again, with an image tower that is trained
    "acgd-moving": Row("acgd-moving", "text"),
    "acgd+tsgr-moving": Row("acgd+tsgr-moving", "text"),
    "segp-visual-stale-moving": Row("acgd+tsgr-moving", "visual"),
    "segp-visual-moving": Row("ladder-moving", "visual"),
    "ladder-moving": Row("ladder-moving", "fused"),
    "segp-text-moving": Row("segp-moving", "text"),
    "segp-whitened-moving": Row("segp-moving", "visual"),
    "segp-moving": Row("segp-moving", "fused"),
    "joint-moving": Row("joint-moving", "fused"),
}


def all_rows() -> dict[str, Row]:
    """`ROWS`, and one for every other strategy that is registered, by its fused path."""
    rows = dict(ROWS)
    for strategy in get_args(StrategyName):
        if strategy not in ("segp", "naive", "prototypes"):
            rows.setdefault(strategy, Row(strategy, "fused"))
    return rows


def training_of(name: str) -> Training:
    """A training by name: one of `TRAININGS`, or a registered strategy."""
    return TRAININGS.get(name) or Training({"strategy": name})


def choose_rows(names: list[str] | None) -> dict[str, Row]:
    """The rows that were asked for, in the table's order; all if None.

    Raises:
        UnknownRowError: a name that is none of them.
    """
    rows = all_rows()
    unknown = [name for name in names or [] if name not in rows]
    if unknown:
        raise UnknownRowError(f"there is no row {unknown[0]!r}; there are {', '.join(rows)}")
    return {name: row for name, row in rows.items() if not names or name in names}


def settings_of(training: Training, given: Mapping[str, Any], tuned: Mapping[str, Any] | None) -> LearnerConfig:
    """The configuration of a training: defaults, what the benchmark was given, the training's own, what was tuned.

    Raises:
        InvalidSettingError: there is no such hyper-parameter, or it cannot have this value.
    """
    settings = {**given, **training.settings, **((tuned or {}) if training.tuned else {})}
    try:
        return LearnerConfig(**settings)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]) if first["loc"] else ""
        if name not in LearnerConfig.model_fields:
            raise InvalidSettingError(f"there is no hyper-parameter {name!r}") from error
        raise InvalidSettingError(f"{name} cannot be {settings.get(name)!r}: {first['msg']}") from error

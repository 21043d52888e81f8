"""The policy of the gate, a file in the store's folder; and what the gate said about a version. Needs no torch."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from model_store.types import JournalEntry, Manifest, VersionId

logger = logging.getLogger(__name__)

GATE_FILE = "gate.json"
REPORT_KEY = "gate"
"""The key of a manifest's `report` under which the gate's result is stored."""

_MAX_FILE_BYTES = 64 * 1024  # far more than any policy


class GatePolicy(BaseModel):
    """The checks that a version must pass before it is promoted. Accuracies and shares are fractions in [0, 1].

    A figure that rests on few images is compared by the upper end of its interval at `confidence`, so that few wrong
    answers do not hold a version by bad luck.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    enabled: bool = Field(True, description="false: every version passes, and nothing is measured for the gate.")
    confidence: float = Field(
        0.95, gt=0.5, lt=1, description="Level of the one-sided intervals. Nearer to 1 holds fewer versions."
    )

    check_accuracy: bool = Field(True, description="Check the accuracy on the held-out images of the update.")
    min_accuracy: float = Field(0.2, ge=0, le=1, description="Least accuracy on the held-out images.")
    min_above_chance: float = Field(
        0.1, ge=0, le=1, description="Least accuracy as a share of the way from chance to 1. The larger bound counts."
    )

    check_taught: bool = Field(True, description="Where few images are held out, check those that were taught too.")
    min_taught_accuracy: float = Field(0.5, ge=0, le=1, description="Least accuracy on taught and held-out images.")
    few_images: int = Field(
        20,
        ge=0,
        le=10_000,
        description="With this many held-out images, the taught ones of new classes are not measured.",
    )

    check_contradiction: bool = Field(
        True, description="Where new images of known classes contradict the old ones, check that they were learned."
    )
    min_contradicted_accuracy: float = Field(
        0.9, ge=0, le=1, description="Least accuracy on taught images that the version before had mostly wrong."
    )

    check_twin: bool = Field(
        True, description="Check that a trained version has no lower held-out accuracy than the task's instant version."
    )

    check_worst_class: bool = Field(True, description="Check the class with the lowest held-out accuracy.")
    min_class_accuracy: float = Field(0.1, ge=0, le=1, description="Least held-out accuracy of each class.")
    min_class_images: int = Field(
        5, ge=1, le=10_000, description="A class with fewer held-out images is not judged by itself."
    )

    check_old_classes: bool = Field(True, description="Check on sampled features what is kept of the old classes.")
    max_drop: float = Field(0.3, ge=0, le=1, description="Most that the accuracy on old classes may fall, absolute.")
    min_kept_share: float = Field(
        0.5, ge=0, le=1, description="Least share of that accuracy that must be kept. The larger bound counts."
    )

    check_test_sets: bool = Field(True, description="Compare the answers to all test sets with those of the parent.")
    max_test_set_drop: float = Field(
        0.15, ge=0, le=1, description="Most that the accuracy on a test set may fall, absolute."
    )
    max_test_class_drop: float = Field(
        0.3, ge=0, le=1, description="The same of each class with at least min_class_images images in a test set."
    )
    max_test_set_flips: float = Field(
        0.25, ge=0, le=1, description="Largest share of a test set's right answers that may become wrong."
    )

    check_finite: bool = Field(True, description="Check that every score and golden answer is finite.")

    check_one_answer: bool = Field(True, description="Check that not all images get the same class.")
    check_flat: bool = Field(True, description="Check that the mean top probability is above chance.")
    min_top_probability: float = Field(
        1.01, ge=1, le=100, description="Least mean top probability, as a multiple of chance."
    )
    min_answers: int = Field(
        12, ge=2, le=10_000, description="With fewer answers than this, the last two checks are not made."
    )
    min_answer_classes: int = Field(
        3, ge=2, le=10_000, description="With answers about fewer classes than this, they are not made either."
    )

    def changed(self, changes: Mapping[str, object]) -> Self:
        """Return the policy with other values; None sets a field back to its default.

        Raises:
            ValidationError: a field is unknown, or a value is out of range.
        """
        unset = {name for name, value in changes.items() if value is None and name in type(self).model_fields}
        merged = {**self.model_dump(), **changes}
        return self.model_validate({name: value for name, value in merged.items() if name not in unset})


@dataclass(frozen=True)
class GateSetting:
    """The policy in force.

    `source` is `file`, or `defaults` where there is no file, or `damaged` where the file cannot be used; then the
    defaults are in force, and `problem` says what is wrong with the file.
    """

    policy: GatePolicy
    source: Literal["file", "defaults", "damaged"]
    problem: str | None = None


def read_setting(path: Path) -> GateSetting:
    """Read the policy at `path`. A missing or damaged file means the defaults, never an open gate."""
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_FILE_BYTES + 1)
        if len(data) > _MAX_FILE_BYTES:
            raise ValueError(f"it has more than {_MAX_FILE_BYTES} bytes")
        return GateSetting(GatePolicy.model_validate(json.loads(data)), "file")
    except FileNotFoundError:
        return GateSetting(GatePolicy(), "defaults")
    except OSError as error:
        problem = f"cannot be read: {error.strerror}"
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        problem = f"{'.'.join(map(str, first['loc'])) or 'the file'}: {first['msg']}"
    except (ValueError, RecursionError) as error:
        problem = f"not JSON: {error}"
    logger.warning("%s is damaged (%s); the gate's defaults are used", path, problem)
    return GateSetting(GatePolicy(), "damaged", f"{path.name} is damaged, the defaults are used: {problem}")


def write_policy(policy: GatePolicy) -> bytes:
    """Return the bytes of the policy's file."""
    return (policy.model_dump_json(indent=2) + "\n").encode()


def differences(before: GatePolicy, after: GatePolicy) -> str:
    """Return what was changed, as `name before -> after` by commas; empty if nothing was."""
    old, new = before.model_dump(mode="json"), after.model_dump(mode="json")
    return ", ".join(
        f"{name} {json.dumps(old[name])} -> {json.dumps(new[name])}" for name in new if old[name] != new[name]
    )


def reasons_of(manifest: Manifest) -> tuple[str, ...]:
    """Return why the gate held a version when it was published; empty if it passed, or was never judged."""
    result = (manifest.report or {}).get(REPORT_KEY)
    reasons = result.get("held_because") if isinstance(result, dict) else None
    return tuple(str(reason) for reason in reasons) if isinstance(reasons, list) else ()


def let_through(entries: Iterable[JournalEntry]) -> frozenset[VersionId]:
    """Return the versions to which CURRENT was moved: none of them is held any more, whatever the gate said."""
    moves = ("promote", "rollback", "recover")
    return frozenset(entry.to for entry in entries if entry.action in moves and entry.to is not None)

"""Judges a version that was made without an image, by features sampled from what its parents keep of their classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from model_store.gate import GatePolicy
from segp_cl.models.backbone import Backbone
from segp_cl.runtime.classifier import Classifier
from segp_cl.runtime.golden import GoldenAnswers, record
from segp_cl.types import LearnerState
from worker.evidence import SampledClasses, not_finite
from worker.gate import NONE, Evidence, judge
from worker.judging import Judgement
from worker.on_test_sets import Found


@dataclass(frozen=True)
class Before:
    """A parent of such a version.

    Attributes:
        state: the parent.
        but: classes that are not asked about: gone, or called otherwise, so that other answers are right.
    """

    state: LearnerState
    but: frozenset[str] = frozenset()


def judge_without_images(
    policy: GatePolicy,
    backbone: Backbone,
    parents: Sequence[Before],
    classifier: Classifier,
    norm: Float[Tensor, ""],
    test_sets: Found,
) -> Judgement:
    """Record golden answers, if they are finite, and have the gate decide: every class is an old one here.

    Args:
        policy: the gate's.
        backbone: the base model.
        parents: what the version was made of. Classes of the first are not asked about again for the others.
        classifier: the version's.
        norm: the usual norm of raw features.
        test_sets: what it answers to the test sets.
    """
    golden = record(classifier, backbone.preprocessing.size)
    unusable = not_finite(golden)
    kept = before = NONE
    known: set[str] = set()
    if policy.enabled and policy.check_old_classes:
        for parent in parents:
            left_out = known | parent.but
            if set(parent.state.class_names) - left_out:
                sampled = SampledClasses(Classifier(backbone, parent.state), norm, but=left_out)
                kept = kept.plus(sampled.after(classifier))
                before = before.plus(sampled.answers_before)
            known |= set(parent.state.class_names)
    evidence = Evidence(
        seen_classes=len(classifier.state.classes),
        kept=kept,
        kept_before=before,
        golden_not_finite=unusable,
        test_sets=test_sets.evidence,
    )
    return Judgement(None, None if unusable else golden, judge(policy, evidence))


def usual_norm(*golden: GoldenAnswers | None) -> Float[Tensor, ""]:
    """Return the mean norm of the raw features that versions recorded; 1 where none did."""
    known = [answers.raw.norm(dim=-1).mean() for answers in golden if answers is not None]
    return torch.stack(known).mean() if known else torch.tensor(1.0)

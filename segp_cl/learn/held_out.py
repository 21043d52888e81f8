"""What an update learns from held-out images about its answers: multipliers, and the summary that the state keeps.

Images of old classes are gone, so that what was kept of them is carried over to more classes. See docs/adr/0030.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from segp_cl.calibration import fit_scale
from segp_cl.odds import at, grown, log_odds, pooled, quantiles, surprise
from segp_cl.scores import fused_scores
from segp_cl.types import Calibration, HeldOutSummary, LearnerState, Path
from segp_cl.unknown import NOBODY_SPREAD


@dataclass(frozen=True)
class HeldOut:
    """Scores of held-out images, which neither training nor the statistics used here have seen, and their classes.

    Attributes:
        text: s_clip (5) over all seen classes.
        visual: s_v (6).
        strangeness: how strange they look; None where that cannot be told.
        rows: their classes.
    """

    text: Float[Tensor, "images seen"]
    visual: Float[Tensor, "images seen"]
    strangeness: Float[Tensor, " images"] | None
    rows: Int64[Tensor, " images"]

    def of_paths(self, fusion_weight: float) -> dict[Path, Float[Tensor, "images seen"]]:
        """The scores that are multiplied for probabilities, by path."""
        fused = fused_scores(self.text, self.visual, fusion_weight=fusion_weight) / (1 + fusion_weight)
        return {"text": self.text, "visual": self.visual, "fused": fused}


def carried(old: LearnerState, *, seen: int) -> HeldOutSummary | None:
    """Return the old state's summary among `seen` classes, where none of the new images is held out."""
    if old.held_out is None:
        return None
    known, odds = len(old.classes), {}
    for path, of_old in old.held_out.odds.items():
        odds[path] = grown(of_old, of_old[:, :0], old_classes=known, new_classes=seen - known)
    return replace(old.held_out, odds=odds)


def summarised(
    old: LearnerState, kept: HeldOut, *, seen: int, fusion_weight: float, logit_scale: float
) -> tuple[Calibration, HeldOutSummary]:
    """Fit the multipliers on held-out images and on what is kept of earlier ones, and add the former to the latter.

    Features sampled from the statistics would be too easy for that. Every class counts alike, however many of its
    images are held out.

    Args:
        old: the state before the task.
        kept: the task's held-out images, one at least.
        seen: how many classes there are now.
        fusion_weight: β.
        logit_scale: the model's own.
    """
    before, known = old.held_out, len(old.classes)
    rows = set(kept.rows.tolist())
    still = 0 if before is None else max(0, before.classes - len(rows & set(range(known))))
    weights, new = (still, len(rows)), kept.rows >= known
    multipliers, odds = {}, {}
    for path, scores in kept.of_paths(fusion_weight).items():
        expected = logit_scale if old.calibration is None else float(getattr(old.calibration, path))
        odds[path] = quantiles(log_odds(scores, kept.rows, logit_scale=logit_scale))
        if before is None or not still:
            multipliers[path] = fit_scale(scores, kept.rows, expected=expected)
            continue
        against = log_odds(scores[new], kept.rows[new], logit_scale=logit_scale, among=known)
        of_old = grown(before.odds[path], against, old_classes=known, new_classes=seen - known)
        images = still * len(kept.rows) / len(rows)
        gone = partial(_surprise_at, of_old, logit_scale, images)
        multipliers[path] = fit_scale(scores, kept.rows, expected=expected, gone=gone)
        odds[path] = pooled(of_old, odds[path], weights=weights)
    strangeness = None if kept.strangeness is None else quantiles(kept.strangeness.double()[None])[0]
    if strangeness is not None and before is not None and before.strangeness is not None and still:
        strangeness = pooled(before.strangeness[None], strangeness[None], weights=weights)[0]
    images_in_all = len(kept.rows) + (before.images if before is not None and still else 0)
    summary = HeldOutSummary(odds, strangeness, images=images_in_all, classes=sum(weights), nobody_spread=NOBODY_SPREAD)
    return Calibration(**multipliers, images=len(kept.rows)), summary


def of_both(
    base: LearnerState, ours: LearnerState, theirs: LearnerState, *, seen: int, logit_scale: float
) -> tuple[Calibration | None, HeldOutSummary | None]:
    """Return what two branches know of held-out images, among the `seen` classes of both; what is common counts once.

    No image is there to fit multipliers on: they are those that make the answers to all that was kept most likely.
    """
    mine, other = carried(ours, seen=seen), carried(theirs, seen=seen)
    if mine is None or other is None:
        known = ours if other is None else theirs
        return known.calibration, other if mine is None else mine
    common = 0 if base.held_out is None else base.held_out.classes
    weights = (mine.classes, max(1, other.classes - common))
    images = max(1, mine.images + other.images - (0 if base.held_out is None else base.held_out.images))
    multipliers, odds = {}, {}
    for path in mine.odds:
        odds[path] = pooled(mine.odds[path], other.odds[path], weights=weights)
        own = [state.calibration for state in (ours, theirs) if state.calibration is not None]
        expected = math.prod(float(getattr(each, path)) for each in own) ** (1 / len(own)) if own else logit_scale
        multipliers[path] = fit_scale(
            torch.empty(0, 1),
            torch.empty(0, dtype=torch.int64),
            expected=expected,
            gone=partial(_surprise_at, odds[path], logit_scale, float(images)),
        )
    strangeness = None
    if mine.strangeness is not None and other.strangeness is not None:
        strangeness = pooled(mine.strangeness[None], other.strangeness[None], weights=weights)[0]
    return (
        Calibration(**multipliers, images=images),
        HeldOutSummary(
            odds,
            strangeness,
            images=images,
            classes=sum(weights),
            nobody_spread=max(mine.nobody_spread, other.nobody_spread),
        ),
    )


def _surprise_at(odds: Float[Tensor, "multipliers shares"], logit_scale: float, images: float, scale: float) -> float:
    return images * surprise(at(odds, scale, logit_scale=logit_scale))

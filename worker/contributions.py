"""What the classes of a task have in common with those that are known, told before they are learned."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from exchange.contracts import ClassAtRisk, ContributionReport, Forecast, NearClasses, TaskContributions
from exchange.spool import SpoolIndex
from segp_cl.contributions import (
    LEAST_SPREAD,
    MEASURED_CORRELATION,
    MODALITIES,
    Side,
    contributions,
    image_spread,
    margins,
    nearest_pairs,
)
from segp_cl.data.held_out import Split
from segp_cl.models.backbone import Backbone
from segp_cl.pixels import as_unit_pixels
from segp_cl.types import ImageSource, LearnerState, TaskClass
from worker.evidence import MOST_TAUGHT, evenly

MOST_TOLD: Final = 10
"""Most classes in each list of a report."""
_TEXTS: Final = 256


@torch.inference_mode()
def contributions_of(
    state: LearnerState,
    base: Backbone,
    classes: Sequence[TaskClass],
    images: ImageSource,
    index: SpoolIndex,
    split: Split,
) -> ContributionReport | None:
    """Return what new classes have in common with those of `state`; None where it has none, or there are no new ones.

    No image of an old task is there. Its side are its classes' prototypes, projected, and their texts. The frozen model
    is the untouched base model. Where adapters have moved the image tower, prototypes fit the version's own towers
    alone, so that these are the frozen model.

    Args:
        state: the version that the task is to be learned on.
        base: its base model.
        classes: those of the task.
        images: all images of the task, in the order of `index`.
        index: their labels.
        split: which of them are learned from.
    """
    known = set(state.class_names)
    new = [row for row, taught in enumerate(classes) if taught.name not in known]
    if not new or not state.classes:
        return None
    frozen = base.with_lora(state.lora) if state.moves_image_tower else base
    taught = [at for at in split.train if index.labels[at] in new]
    chosen = evenly(index.labels, taught, max(MOST_TAUGHT, len(new)))  # one of each class at least
    raw = frozen.raw_features(as_unit_pixels(images.pixels(chosen)).to(frozen.device))
    seen = frozen.project(raw).float().cpu()
    norm = raw.norm(dim=1).mean()
    old = frozen.project(state.prototypes.to(raw) * norm).float().cpu()
    old_texts = _texts(frozen.text_features, [c.prompt for c in state.classes])
    new_texts = _texts(frozen.text_features, [classes[row].prompt for row in new])
    labels = torch.tensor([new.index(index.labels[at]) for at in chosen])
    means = F.normalize(torch.stack([seen[labels == row].mean(dim=0) for row in range(len(new))]), dim=-1)
    names = [classes[row].name for row in new]
    tasks = _by_task(state, old, old_texts, Side(seen, new_texts))
    spread = image_spread(old, seen)
    sides = {
        "image_to_text": (old, new_texts),
        "text_to_image": (old_texts, means),
        "image_to_image": (old, means),
        "text_to_text": (old_texts, new_texts),
    }
    found = margins(old, old_texts, new_texts)
    at_risk = [margin for margin in found if margin.margin < 0]
    return ContributionReport(
        new_classes=len(new),
        old_classes=len(state.classes),
        images=len(chosen),
        tasks=tasks,
        nearest={
            name: tuple(
                NearClasses(old=state.class_names[row], new=names[column], cosine=round(cosine, 4))
                for row, column, cosine in nearest_pairs(*sides[name], most=MOST_TOLD)
            )
            for name in MODALITIES
        },
        at_risk=tuple(
            ClassAtRisk(old=state.class_names[m.row], new=names[m.nearest], margin=round(m.margin, 4))
            for m in at_risk[:MOST_TOLD]
        ),
        at_risk_count=len(at_risk),
        sigma_image=round(spread, 4),
        **_forecast(tasks, spread),
    )


def _by_task(
    state: LearnerState, images: Float[Tensor, "old joint"], texts: Float[Tensor, "old joint"], after: Side
) -> tuple[TaskContributions, ...]:
    found = []
    for task in sorted({known.task for known in state.classes}):
        rows = torch.tensor([row for row, known in enumerate(state.classes) if known.task == task])
        scores = contributions(Side(images[rows], texts[rows]), after)
        rounded = {name: round(getattr(scores, name), 4) for name in MODALITIES}
        found.append(TaskContributions(task=task, classes=len(rows), **rounded))
    return tuple(found)


def _forecast(tasks: Sequence[TaskContributions], spread: float) -> dict[str, Forecast | str | None]:
    """Return the forecast, or why there is none."""
    why = None
    if spread < LEAST_SPREAD:
        why = (
            f"images are too much alike: their cosines spread by {spread:.3f}, and below {LEAST_SPREAD:g} the source's "
            "own forecast has the wrong sign"
        )
    elif len(tasks) < 2:
        why = "there is one earlier task, so there is none that would be forgotten more than another"
    if why is not None:
        return {"forecast": None, "no_forecast_because": why}
    order = sorted(tasks, key=lambda task: -task.image_to_text)
    forecast = Forecast(most_affected=tuple(task.task for task in order[:MOST_TOLD]), correlation=MEASURED_CORRELATION)
    return {"forecast": forecast, "no_forecast_because": None}


def _texts(encode: Callable[[Sequence[str]], Tensor], prompts: Sequence[str]) -> Float[Tensor, "prompts joint"]:
    parts = [encode(prompts[start : start + _TEXTS]) for start in range(0, len(prompts), _TEXTS)]
    return torch.cat(parts).float().cpu()

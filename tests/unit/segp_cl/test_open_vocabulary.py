"""Taught classes beside words: the evidence by hand, and weights that follow the held-out images."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from segp_cl.open_vocabulary import (
    EXPECTED,
    EXPECTED_BY_TEXT,
    VISUAL_SCALE,
    evidence,
    expected_familiarity,
    fit_familiarity,
    open_probabilities,
    probability_of_taught,
)
from segp_cl.types import Familiarity


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def images(classes: int, each: int, *, visual: float, text: float) -> tuple[Tensor, Tensor, Tensor]:
    """Noisy scores over all classes; an image's own class is higher by `visual` and `text`."""
    rows = torch.arange(classes).repeat_interleave(each)
    own = torch.nn.functional.one_hot(rows, classes)
    noise = torch.randn(2, len(rows), classes, generator=generator())
    return visual * own + 0.05 * noise[0], text * own + 0.05 * noise[1], rows


def test_evidence_by_hand() -> None:
    visual = torch.tensor([[0.1, 0.3]])
    found = evidence(visual, torch.tensor([[0.2, 0.5]]), torch.tensor([[0.4, 0.1, 0.0]]), logit_scale=10.0)
    energy = math.log((math.exp(VISUAL_SCALE * 0.1) + math.exp(VISUAL_SCALE * 0.3)) / 2)
    assert found[0].tolist() == pytest.approx([energy, 1.0, 1.0])


def test_without_visual_evidence_the_names_decide() -> None:
    found = evidence(None, torch.tensor([[0.5]]), torch.tensor([[0.4]]), logit_scale=10.0)
    assert found[0].tolist() == pytest.approx([0.0, 1.0, 1.0])
    assert expected_familiarity(False) == EXPECTED_BY_TEXT
    assert expected_familiarity(True) == EXPECTED


def test_the_same_class_twice_is_no_more_familiar_than_once() -> None:
    visual, text, new = torch.tensor([[0.3]]), torch.tensor([[0.2]]), torch.tensor([[0.1]])
    once = evidence(visual, text, new, logit_scale=20.0)
    twice = evidence(visual.repeat(1, 2), text.repeat(1, 2), new, logit_scale=20.0)
    assert torch.allclose(once, twice)


def test_probabilities_by_hand() -> None:
    weights = Familiarity(visual=0.0, text=1.0, offset=0.5, images=0)
    text = torch.tensor([[0.3, 0.2, 0.25, 0.25]])
    # log-odds 10 * (0.3 - 0.25) + 0.5 = 1
    share = 1 / (1 + math.exp(-1))
    found = open_probabilities(torch.tensor([[0.6, 0.4]]), None, text, weights, logit_scale=10.0)
    expected = [share * 0.6, share * 0.4, (1 - share) / 2, (1 - share) / 2]
    assert found[0].tolist() == pytest.approx(expected)


def test_probabilities_of_both_kinds_sum_to_one() -> None:
    visual, text, _ = images(6, 4, visual=0.3, text=0.1)
    taught = torch.softmax(visual[:, :4], dim=1)
    found = open_probabilities(taught, visual[:, :4], text, EXPECTED, logit_scale=20.0)
    assert torch.allclose(found.sum(dim=1), torch.ones(len(text)))
    assert torch.equal(open_probabilities(taught, visual[:, :4], text[:, :4], EXPECTED, logit_scale=20.0), taught)


@pytest.mark.parametrize(("informative", "idle"), [("visual", "text"), ("text", "visual")])
def test_the_fit_trusts_the_evidence_that_tells_classes_apart(informative: str, idle: str) -> None:
    strengths = {"visual": 0.0, "text": 0.0, informative: 0.4}
    visual, text, rows = images(12, 20, **strengths)
    fitted = fit_familiarity(visual, text, rows, logit_scale=20.0, expected=EXPECTED, generator=generator())
    moved = {name: getattr(fitted, name) - getattr(EXPECTED, name) for name in (informative, idle)}
    assert moved[informative] > 3 * abs(moved[idle])
    assert fitted.images == len(rows)


def test_fitted_weights_tell_new_images_apart_better_than_chance_allows() -> None:
    visual, text, rows = images(12, 20, visual=0.3, text=0.1)
    fitted = fit_familiarity(visual, text, rows, logit_scale=20.0, expected=EXPECTED, generator=generator())
    known = rows < 6
    found = evidence(visual[:, :6], text[:, :6], text[:, 6:], logit_scale=20.0)
    share = probability_of_taught(found, fitted)
    assert float((share[known] > 0.5).double().mean()) > 0.9
    assert float((share[~known] < 0.5).double().mean()) > 0.9


def test_few_images_leave_the_weights_nearly_as_they_were() -> None:
    visual, text, rows = images(3, 1, visual=0.3, text=0.1)
    few = fit_familiarity(visual, text, rows, logit_scale=20.0, expected=EXPECTED, generator=generator())
    visual, text, rows = images(3, 200, visual=0.3, text=0.1)
    many = fit_familiarity(visual, text, rows, logit_scale=20.0, expected=EXPECTED, generator=generator())
    assert abs(few.offset - EXPECTED.offset) < abs(many.offset - EXPECTED.offset)


def test_a_task_of_one_class_is_told_from_the_old_ones() -> None:
    visual, text, rows = images(5, 20, visual=0.3, text=0.1)
    last = rows == 4
    fitted = fit_familiarity(
        visual[last], text[last], rows[last], logit_scale=20.0, expected=EXPECTED, generator=generator()
    )
    assert fitted != EXPECTED
    assert all(math.isfinite(value) for value in (fitted.visual, fitted.text, fitted.offset))


def test_a_single_class_has_nothing_to_be_told_from() -> None:
    visual, text, rows = images(1, 20, visual=0.3, text=0.1)
    assert fit_familiarity(visual, text, rows, logit_scale=20.0, expected=EXPECTED, generator=generator()) == EXPECTED

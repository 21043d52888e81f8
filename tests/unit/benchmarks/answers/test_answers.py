"""The benchmark of answers: what is taught is what an update learns, and a small run from features to page."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from benchmarks.answers import __main__ as program
from benchmarks.answers.certainty import CERTAINTY, error_by_chance
from benchmarks.answers.features import Images, Photos
from benchmarks.answers.group import Inputs
from benchmarks.answers.lineage import Lineage, given_features, history, scores_of
from benchmarks.answers.shots import SHOTS_GROUP
from benchmarks.answers.strange import STRANGE
from segp_cl.statistics import MomentSums

WIDTH, CLASSES = 24, 12


def photos(seed: int = 0) -> Photos:
    generator = torch.Generator().manual_seed(seed)
    middles = torch.randn(CLASSES, WIDTH, generator=generator)

    def images(each: int) -> Images:
        labels = torch.arange(CLASSES).repeat_interleave(each)
        return Images(middles[labels] + 0.6 * torch.randn(len(labels), WIDTH, generator=generator), labels)

    texts = F.normalize(middles + torch.randn(CLASSES, WIDTH, generator=generator), dim=-1)
    return Photos("caltech101", images(20), images(10), texts, 4)


@pytest.fixture
def lineage() -> Lineage:
    return Lineage.on(given_features(20.0))


@pytest.fixture
def inputs(lineage: Lineage) -> Inputs:
    far = torch.randn(40, WIDTH, generator=torch.Generator().manual_seed(9))
    return Inputs({"caltech101": photos()}, lineage, far, {}, orders=2, draws=2, pairs=2)


def test_images_are_chosen_by_class_and_labelled_anew() -> None:
    images = Images(torch.arange(6.0)[:, None], torch.tensor([0, 1, 2, 0, 1, 2]))
    chosen = images.of([2, 0])
    assert sorted(zip(chosen.raw[:, 0].tolist(), chosen.labels.tolist(), strict=True)) == [
        (0.0, 1),
        (2.0, 0),
        (3.0, 1),
        (5.0, 0),
    ]
    assert torch.bincount(images.of([0, 1, 2], each=1).labels).tolist() == [1, 1, 1]


def test_a_lineage_learns_the_sums_of_all_images(lineage: Lineage) -> None:
    given = photos()
    last = history(lineage, given, 0)[-1]
    sums = MomentSums(CLASSES)
    sums.add(given.train.raw, given.train.labels)
    assert last.state.sums is not None
    assert torch.allclose(last.state.sums.sums, sums.total().sums)
    assert last.classes == list(range(CLASSES))
    assert last.state.held_out is not None
    assert last.state.held_out.classes == CLASSES
    found = scores_of(lineage.answering(last.state), given.measured.raw).fused.argmax(dim=1)
    assert (found == given.measured.labels).float().mean() > 0.9


def test_orders_differ_and_hold_every_class() -> None:
    orders = [photos().order(seed) for seed in range(3)]
    assert all(sorted(c for task in order for c in task) == list(range(CLASSES)) for order in orders)
    assert orders[0] != orders[1] != orders[2]


def test_an_error_by_chance_is_larger_with_few_images_and_none_where_all_is_certain() -> None:
    few, many = (error_by_chance(torch.full((images, 2), 0.5)) for images in (20, 10_000))
    assert 0.04 < few < 0.2
    assert many < 0.02
    assert error_by_chance(torch.eye(2).repeat(10, 1)) == 0


@pytest.mark.parametrize("name", ["certainty", "unknown", "shots"])  # the others need real images
def test_a_group_finds_figures_that_it_explains(inputs: Inputs, name: str) -> None:
    group = program.GROUPS[name]
    part = group.measure(inputs)
    assert part.figures
    assert set(part.figures) <= set(group.meanings)
    assert all(-1 <= value <= 1 for value in part.figures.values())
    assert "| ---" in group.section(part.details)
    assert all(plot.startswith(b"\x89PNG") for plot in group.plots(part.details).values())


def test_easy_classes_are_covered_and_told_from_others(inputs: Inputs) -> None:
    figures = {**CERTAINTY.measure(inputs).figures, **STRANGE.measure(inputs).figures}
    assert figures["coverage_caltech101"] > 0.85
    assert figures["unknown_auroc_caltech101"] > 0.8
    assert figures["unknown_auroc_far"] > 0.8


def test_the_page_has_every_figure_and_plot(inputs: Inputs) -> None:
    part = SHOTS_GROUP.measure(inputs)
    record: dict[str, Any] = {
        "machine": {"processor": "p", "cores": 1, "memory_gib": 1, "threads": 1, "torch": "2", "date": "d"},
        "quick": True,
        "evaluated_on": "test",
        "figures": part.figures,
        "details": {"shots": part.details},
    }
    page = program.page(record)
    assert all(f"`{name}`" in page for name in part.figures)
    assert "shots.png" in page
    assert program.TITLES["unknown"] not in page

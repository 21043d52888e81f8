"""Words that were never taught: accuracies worked by hand, and what a real run gives."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.accuracy import words
from benchmarks.accuracy.benchmark import Options
from benchmarks.accuracy.datasets import Dataset
from benchmarks.accuracy.evaluate import OpenScores, TaskScores
from benchmarks.accuracy.protocol import make_bench
from benchmarks.accuracy.study import Study
from benchmarks.accuracy.words import Both, Words, figures, open_accuracies, plot_words, words_accuracy
from segp_cl.config import LearnerConfig
from segp_cl.learn.learner import initial_state, learn_task
from segp_cl.models.backbone import Backbone
from segp_cl.types import Familiarity


def test_accuracies_among_the_names_of_both_by_hand() -> None:
    # classes 0 and 1 are taught, class 2 is a word; the margin of the names alone says which of them it is
    opened = OpenScores(
        untouched=torch.tensor([[0.9, 0.1, 0.2], [0.1, 0.2, 0.9], [0.3, 0.3, 0.8]]),
        taught=torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.5, 0.5]]).expand(3, 3, 2),
        comparable=False,
        familiarity=Familiarity(visual=0.0, text=1.0, offset=0.0, images=0),
        logit_scale=10.0,
    )
    scores = TaskScores(torch.zeros(3, 3), torch.zeros(3, 2), 1.0, opened)
    # image 0 is found, image 1 is given to the word, image 2 is the word's
    found = open_accuracies([scores, scores], torch.tensor([0, 1, 2]), [2, 1], [2, 1])
    assert found == Both(new=(1.0,), taught=(0.5,))
    assert found.harmonic == pytest.approx(2 / 3)


def measured(before: float, after: float) -> Words:
    both = Both(new=(0.5, 0.4), taught=(0.9, 0.7))
    return Words("toys", both, both, 0.8, 0.6, 0.5, "others", before, after)


def test_the_figures_name_the_largest_loss() -> None:
    found = figures([measured(0.5, 0.45), measured(0.5, 0.6)])
    assert found["retention_change"] == pytest.approx(-0.05)
    assert found["open_harmonic_toys"] == pytest.approx(2 * 0.45 * 0.8 / 1.25)
    assert figures([measured(0.5, 0.5)])["retention_change"] == 0.0


def test_the_plot_is_a_png() -> None:
    assert plot_words([measured(0.5, 0.5)]).startswith(b"\x89PNG")


def test_words_are_answered_after_teaching_as_before(
    tiny_backbone: Backbone, toys: Dataset, other_toys: Dataset
) -> None:
    bench = make_bench(toys, tiny_backbone.preprocessing, seed=0)
    elsewhere = make_bench(other_toys, tiny_backbone.preprocessing, seed=0)
    untouched = initial_state(tiny_backbone)
    config = LearnerConfig(epochs=2, batch_size=4, k_adv=1, learning_rate=0.1)
    taught = learn_task(
        untouched,
        bench.tasks[0],
        config=config,
        generator=torch.Generator().manual_seed(0),
        backbone=tiny_backbone,
    ).state
    assert taught.moves_image_tower
    assert words_accuracy(tiny_backbone, taught, elsewhere) == words_accuracy(tiny_backbone, untouched, elsewhere)


def test_a_whole_measurement(
    tiny_backbone: Backbone, toys: Dataset, other_toys: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"epochs": 1, "batch_size": 8, "rank": 4, "image_rate": 0.0}
    options = Options(seeds=(0,), settings=settings)
    study, other = (Study(each, tiny_backbone, tmp_path, options) for each in (toys, other_toys))
    found = words._measure(study, other, 0)
    assert (found.dataset, found.other) == ("toys", other_toys.name)
    assert found.before == found.after
    assert len(found.served.new) == len(found.zero_shot.taught) == 1
    assert all(0 <= value <= 1 for value in figures([found]).values())

"""The gate holds no sound update and every ruined one, on features that leave no doubt."""

from __future__ import annotations

import torch

from benchmarks.operator.gate_on_test_sets import _held, _Images, section


def images(each: int, *, classes: int = 24, seed: int = 0) -> _Images:
    generator = torch.Generator().manual_seed(seed)
    means = torch.eye(classes, 2 * classes)
    labels = torch.arange(classes).repeat_interleave(each)
    noise = 0.05 * torch.randn(len(labels), 2 * classes, generator=generator)
    return _Images(means[labels] + noise, labels)


def test_sound_updates_pass_and_ruined_ones_are_held() -> None:
    train, test = images(14), images(10, seed=1)
    sound = _held(train, test, 6, 10, 2, damage=0.0)
    ruined = _held(train, test, 6, 10, 2, damage=0.5)
    assert (sound["updates"], sound["held"], sound["largest_drop"]) == (6, 0, 0.0)
    assert (ruined["updates"], ruined["held"]) == (6, 6)
    shown = section({"sound": [sound], "damaged": [ruined]})
    assert "| 6 | 10 | 0 % | 0 of 6 | 0.0 (0.0) |" in shown
    assert "| 6 | 10 | 50 % | 6 of 6 |" in shown

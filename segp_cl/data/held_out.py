"""Chooses the images of a task that are held out: measured on, and not trained on."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from hashlib import sha256

import torch

Shuffle = Callable[[Sequence[int]], Sequence[int]]
"""Reorders the positions of one class's images; the first are held out first."""


@dataclass(frozen=True)
class Split:
    """Positions in the data set, ascending. Together they cover all of it."""

    train: tuple[int, ...]
    held_out: tuple[int, ...]


def hold_out(
    labels: Sequence[int], *, fraction: float, min_images: int, shuffle: Shuffle, given: Collection[int] = ()
) -> Split:
    """Hold out the `given` images of a class that has some, and `fraction` of every other class's images.

    No image is held out of a class of fewer than `min_images`. Of any other class at least one is held out and at least
    one is left, unless `fraction` is 0. Given images are held out whatever these say.

    Args:
        labels: the class of every image.
        fraction: in [0, 1).
        min_images: at least 2.
        shuffle: orders the images of a class.
        given: positions of images that the data set itself sets apart; no class has these alone.
    """
    by_class: dict[int, list[int]] = {}
    for position, label in enumerate(labels):
        by_class.setdefault(label, []).append(position)
    held = set(given)
    for _, positions in sorted(by_class.items()):
        if held.intersection(positions):
            assert not held.issuperset(positions), "a class has no image to learn from"
        elif fraction > 0 and len(positions) >= min_images:
            count = min(max(1, round(fraction * len(positions))), len(positions) - 1)
            held.update(shuffle(positions)[:count])
    train = tuple(position for position in range(len(labels)) if position not in held)
    return Split(train=train, held_out=tuple(sorted(held)))


def drawn_from(generator: torch.Generator) -> Shuffle:
    """Return a shuffle whose order the generator draws."""

    def shuffle(positions: Sequence[int]) -> list[int]:
        return [positions[i] for i in torch.randperm(len(positions), generator=generator).tolist()]

    return shuffle


def named_by(digest: str, seed: int) -> Shuffle:
    """Return a shuffle whose order depends only on the data set, named by its digest, and the seed."""
    return lambda positions: sorted(positions, key=lambda p: sha256(f"{digest}:{seed}:{p}".encode()).digest())

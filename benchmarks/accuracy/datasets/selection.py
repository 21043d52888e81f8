"""Fewer images of each class: seeded subsets, a validation slice, a split that every machine makes alike."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable

import numpy as np

from benchmarks.accuracy.datasets.images import SelectedImages
from benchmarks.accuracy.datasets.types import LabelledImages

_SUBSET, _VALIDATION = 0, 1  # separate streams, so that a slice is no function of the subset drawn with the same seed


def subset(images: LabelledImages, per_class: int | None, *, seed: int) -> LabelledImages:
    """The first `per_class` images of each class in a seeded random order; all of a class that has no more, or if None.

    With one seed, a smaller subset lies within every larger one, and what is drawn of a class does not depend on the
    other classes. The images keep the order they had.
    """
    if per_class is None:
        return images
    if per_class < 1:
        raise ValueError(f"at least one image of each class is needed, got per_class={per_class}")
    chosen = [index for order in _shuffled(images, seed, _SUBSET) for index in order[:per_class]]
    return SelectedImages(images, sorted(chosen))


def validation_slice(images: LabelledImages, fraction: float, *, seed: int) -> tuple[LabelledImages, LabelledImages]:
    """Set `fraction` of each class aside: (rest, slice).

    Both hold at least one image of every class that has two; a class of a single image stays in the rest.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"a fraction between 0 and 1 is needed, got {fraction}")
    rest: list[int] = []
    held_out: list[int] = []
    for order in _shuffled(images, seed, _VALIDATION):
        count = at_least_one_of_each(len(order), round(fraction * len(order)))
        held_out += order[:count]
        rest += order[count:]
    return SelectedImages(images, sorted(rest)), SelectedImages(images, sorted(held_out))


def split_by_hash(names: Iterable[str], first: int) -> tuple[list[str], list[str]]:
    """The `first` names with the smallest SHA-256, and the others, each sorted; both get one where there are two.

    The same on every machine, whatever order a directory is listed in.
    """
    ranked = sorted(names, key=lambda name: hashlib.sha256(name.encode()).digest())
    count = len(ranked) if len(ranked) < 2 else at_least_one_of_each(len(ranked), first)
    return sorted(ranked[:count]), sorted(ranked[count:])


def at_least_one_of_each(total: int, wanted: int) -> int:
    """How many of `total` to take so that, of two or more, neither side is empty; of fewer, none."""
    return min(max(wanted, 1), total - 1) if total >= 2 else 0


def _shuffled(images: LabelledImages, seed: int, stream: int) -> list[list[int]]:
    by_class: defaultdict[int, list[int]] = defaultdict(list)
    for index, label in enumerate(images.labels):
        by_class[label].append(index)
    return [
        np.random.default_rng([seed, stream, label]).permutation(by_class[label]).tolist() for label in sorted(by_class)
    ]

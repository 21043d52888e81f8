"""Which images of a task are kept back, to see how well it was learned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256


@dataclass(frozen=True)
class Split:
    """Positions in the data set, ascending. Together they are all of it."""

    train: tuple[int, ...]
    holdout: tuple[int, ...]


def split_holdout(labels: Sequence[int], *, digest: str, seed: int, fraction: float, min_images: int) -> Split:
    """Keep `fraction` of every class's images back, the same ones for the same data set and seed.

    A class of fewer than `min_images` images gives none; of any other at least one is kept back and one is left, unless
    `fraction` is 0.

    Args:
        labels: the class of every image.
        digest: names the data set.
        seed: the job's.
        fraction: in [0, 1).
        min_images: at least 2.
    """
    by_class: dict[int, list[int]] = {}
    for position, label in enumerate(labels):
        by_class.setdefault(label, []).append(position)
    held: set[int] = set()
    for positions in by_class.values():
        if fraction == 0 or len(positions) < min_images:
            continue
        count = min(max(1, round(len(positions) * fraction)), len(positions) - 1)
        held.update(sorted(positions, key=lambda p: sha256(f"{digest}:{seed}:{p}".encode()).digest())[:count])
    train = tuple(p for p in range(len(labels)) if p not in held)
    return Split(train=train, holdout=tuple(sorted(held)))

"""How versions see the images of a task: by a pass of each version's own tower, or by features that are known."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Protocol, Self

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from segp_cl.data.row_file import RowFile
from segp_cl.runtime.classifier import Classifier, Features
from segp_cl.types import ImageSource


class Seen(Protocol):
    """Labelled images, and what a version's image tower makes of them."""

    @property
    def labels(self) -> Sequence[int]:
        """Position of every image's class."""
        ...

    def by(self, classifier: Classifier, positions: Sequence[int]) -> Features:
        """Return the features of the images at `positions` by this version."""
        ...

    def part(self, positions: Sequence[int]) -> Self:
        """Return the images at `positions` alone, in that order."""
        ...


class SeenAnew:
    """Images that pass through the tower of each version that is asked about them.

    Args:
        images: all images.
        positions: those of them that count; None: all.
    """

    def __init__(self, images: ImageSource, positions: Sequence[int] | None = None) -> None:
        self._images = images
        self._positions = range(len(images.labels)) if positions is None else positions

    @property
    def labels(self) -> Sequence[int]:
        """Position of every image's class."""
        return [self._images.labels[position] for position in self._positions]

    def by(self, classifier: Classifier, positions: Sequence[int]) -> Features:
        """Decode the images at `positions` and pass them through the version's tower."""
        return classifier.features(self._images.pixels([self._positions[position] for position in positions]))

    def part(self, positions: Sequence[int]) -> SeenAnew:
        """Return the images at `positions` alone, in that order."""
        return SeenAnew(self._images, [self._positions[position] for position in positions])


class SeenOnce:
    """Images that pass through one image tower once, for all versions that have it.

    Raw features are kept in a file without a name, so memory does not grow with the number of images. It is a
    `FeatureSource` too, from which a strategy that trains nothing learns.

    Args:
        images: all images; each is decoded once.
        classifier: a version with that tower.
        rows: keeps the features.
        positions: the images that count; None: all.
    """

    def __init__(
        self, images: ImageSource, classifier: Classifier, rows: RowFile, positions: Sequence[int] | None = None
    ) -> None:
        self._images = images
        self._classifier = classifier
        self._rows = rows
        self._positions = range(len(images.labels)) if positions is None else positions

    @property
    def labels(self) -> Sequence[int]:
        """Position of every image's class."""
        return [self._images.labels[position] for position in self._positions]

    def pixels(self, indices: Sequence[int]) -> UInt8[Tensor, "batch 3 height width"]:
        """Return the images at `indices`, as the tower takes them."""
        return self._images.pixels([self._positions[index] for index in indices])

    def raw_features(self, indices: Sequence[int]) -> Float[Tensor, "batch raw"]:
        """Return r(x) of the images at `indices`, on the CPU."""
        wanted = [self._positions[index] for index in indices]
        missing = [position for position in dict.fromkeys(wanted) if position not in self._rows]
        fresh: dict[int, Tensor] = {}
        if missing:
            raw = self._classifier.features(self._images.pixels(missing)).raw.cpu()
            fresh = dict(zip(missing, raw.unbind(), strict=True))
            for position, row in fresh.items():
                with contextlib.suppress(OSError):  # a row that a full disk does not store is computed again
                    self._rows.write(position, row)
        return torch.stack([fresh[at] if at in fresh else self._rows.read(at) for at in wanted])

    def by(self, classifier: Classifier, positions: Sequence[int]) -> Features:
        """Return the features of the images at `positions`; only the projection is the version's own."""
        return classifier.features_of(self.raw_features(positions))

    def part(self, positions: Sequence[int]) -> SeenOnce:
        """Return the images at `positions` alone, in that order; what was computed for one is there for the other."""
        return SeenOnce(self._images, self._classifier, self._rows, [self._positions[at] for at in positions])

"""Features that the answers are measured on: of photos by `compact`, and of CLIP from a file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from PIL import Image
from sklearn.datasets import load_digits
from torch import Tensor

from benchmarks.accuracy.datasets import Dataset
from benchmarks.accuracy.protocol import EvaluatedOn, PreparedImages, make_bench
from segp_cl.data.preprocessing import to_pixels
from segp_cl.models.backbone import Backbone

BATCH = 64
FAR_SIDE = 128


@dataclass(frozen=True)
class Images:
    """Raw features of images, and their classes."""

    raw: Float[Tensor, "images raw"]
    labels: Int64[Tensor, " images"]

    def of(self, classes: list[int], *, each: int | None = None, seed: int = 0) -> Images:
        """Return the images of `classes`, whose labels become positions among these; at most `each` of a class."""
        generator = torch.Generator().manual_seed(seed)
        rows, labels = [], []
        for position, label in enumerate(classes):
            found = (self.labels == label).nonzero().flatten()
            found = found[torch.randperm(len(found), generator=generator)][:each]
            rows.append(found)
            labels.append(torch.full((len(found),), position))
        return Images(self.raw[torch.cat(rows)], torch.cat(labels))


@dataclass(frozen=True)
class Photos:
    """A data set: what is taught, what is measured, unit-norm text features of the classes, and how many tasks."""

    name: str
    train: Images
    measured: Images
    texts: Float[Tensor, "classes joint"]
    tasks: int

    @property
    def classes(self) -> int:
        return len(self.texts)

    def order(self, seed: int) -> list[list[int]]:
        """Return the classes of every task; seed 0 is the data set's own order."""
        generator = torch.Generator().manual_seed(seed)
        order = torch.arange(self.classes) if seed == 0 else torch.randperm(self.classes, generator=generator)
        return [part.tolist() for part in torch.tensor_split(order, self.tasks)]


def photos_of(
    backbone: Backbone,
    dataset: Dataset,
    *,
    train_per_class: int,
    test_per_class: int | None,
    evaluated_on: EvaluatedOn,
    advance: Callable[[int], None] = lambda images: None,
) -> Photos:
    """Pass a data set through the untrained model, cut as the accuracy benchmark cuts it."""
    bench = make_bench(
        dataset,
        backbone.preprocessing,
        seed=0,
        train_per_class=train_per_class,
        test_per_class=test_per_class,
        evaluated_on=evaluated_on,
    )
    taught, first = [], 0
    for task in bench.tasks:
        assert isinstance(task.images, PreparedImages)
        taught.append(_features(backbone, task.images, first, advance))
        first += len(task.classes)
    measured = [_features(backbone, images, 0, advance) for images in bench.evaluation]
    with torch.no_grad():
        texts = backbone.text_features([c.prompt for c in bench.classes]).cpu()
    return Photos(dataset.name, _joined(taught), _joined(measured), texts, len(bench.tasks))


def far_images(backbone: Backbone, count: int) -> Float[Tensor, "images raw"]:
    """Features of scans of handwritten digits (scikit-learn's, 8 x 8 pixels, enlarged): images of another world."""
    scans = load_digits().images[:count]
    pixels = [
        to_pixels(
            Image.fromarray((scan * 255 / 16).astype(np.uint8)).resize((FAR_SIDE, FAR_SIDE)).convert("RGB"),
            backbone.preprocessing,
        )
        for scan in scans
    ]
    with torch.no_grad():
        return torch.cat(
            [backbone.raw_features(batch / 255).cpu() for batch in torch.split(torch.stack(pixels), BATCH)]
        )


def clip_features(path: Path) -> dict[str, Tensor]:
    """Return the arrays of a file of CLIP features by name: unit-norm rows, and labels."""
    with np.load(path) as arrays:
        return {
            name: F.normalize(torch.tensor(arrays[name], dtype=torch.float32), dim=-1)
            if arrays[name].ndim == 2
            else torch.tensor(arrays[name], dtype=torch.int64)
            for name in arrays.files
        }


def _features(backbone: Backbone, images: PreparedImages, first: int, advance: Callable[[int], None]) -> Images:
    rows = []
    for start in range(0, len(images.labels), BATCH):
        chosen = range(start, min(start + BATCH, len(images.labels)))
        with torch.no_grad():
            rows.append(backbone.raw_features(images.pixels(chosen).float() / 255).cpu())
        advance(len(chosen))
    return Images(torch.cat(rows), torch.tensor(images.labels) + first)


def _joined(parts: list[Images]) -> Images:
    return Images(torch.cat([part.raw for part in parts]), torch.cat([part.labels for part in parts]))

"""Which data a measurement was made on."""

from __future__ import annotations

import hashlib
import struct

from benchmarks.accuracy.datasets.images import identity_of
from benchmarks.accuracy.datasets.types import Dataset


def data_digest(dataset: Dataset) -> str:
    """SHA-256 over the class names, and over every image's label and identity, train and test.

    The identity is a file's name under its root and its size, or an array's bytes: no image is decoded. Neither where
    the data lies nor the order of classes, nor the number of tasks, changes the digest.

    Raises:
        DatasetMissingError: a file that the data set's lists name is not there.
    """
    digest = hashlib.sha256()

    def add(data: bytes) -> None:
        digest.update(struct.pack("<q", len(data)))  # so that no two sequences of pieces run into the same bytes
        digest.update(data)

    for name in dataset.classes:
        add(name.encode())
    for images in (dataset.train, dataset.test):
        labels = images.labels
        add(struct.pack("<q", len(labels)))
        for index, label in enumerate(labels):
            digest.update(struct.pack("<q", label))
            add(identity_of(images, index))
    return digest.hexdigest()

"""The last step of every strategy: prototypes of the task's own classes."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from segp_cl.prototypes import class_means, merge_prototypes
from segp_cl.training import Inputs, Session
from segp_cl.types import Progress


def with_new_prototypes(session: Session, inputs: Inputs, old: Float[Tensor, "old raw"]) -> Float[Tensor, "seen raw"]:
    """Rows for all seen classes: `old`, then the new classes' means (23).

    A known class that received more data keeps its place: its old prototype and the mean of the new images are
    averaged by how many images each stands for.
    """
    means = class_means(_features(session, inputs), classes=len(session.task.classes)).cpu()
    prototypes = torch.cat([old, means.new_zeros(len(session.seen) - len(old), means.shape[1])])
    counts = torch.bincount(torch.tensor(session.task.images.labels))
    for label, row in enumerate(session.task_rows):
        if row < len(old):
            taught = session.old.classes[row].images
            prototypes[row] = merge_prototypes(old[row], taught, means[label], int(counts[label]))
        else:
            prototypes[row] = means[label]
    return prototypes


def _features(session: Session, inputs: Inputs) -> Iterator[tuple[Float[Tensor, "batch raw"], Int64[Tensor, " batch"]]]:
    labels = torch.tensor(session.task.images.labels)
    batches = torch.split(torch.arange(len(labels)), session.config.feature_batch_size)
    for step, indices in enumerate(batches, start=1):
        with torch.no_grad():
            features = inputs.raw_features(inputs.stream.batch(indices.tolist()))
        yield features, labels[indices].to(features.device)
        session.report(Progress("prototypes", step, math.ceil(len(labels) / session.config.feature_batch_size)))

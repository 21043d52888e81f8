"""Classifies many files in requests of at most 64 images, and joins the answers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from keepsight.client.api import Classification, ImageResult, PathName, ZeroShot
from keepsight.client.errors import UploadError
from keepsight.client.images import sendable
from keepsight.client.sync_client import Client

MAX_BATCH = 64
"""Most images in one request."""


def classify_files(
    client: Client,
    files: Sequence[Path],
    *,
    top_k: int = 5,
    path: PathName = "fused",
    labels: Sequence[str] = (),
    template: str | None = None,
    with_classes: bool = False,
    zero_shot: ZeroShot | None = None,
    set_coverage: float | None = None,
    known_share: float | None = None,
    version: str | None = None,
) -> Classification:
    """Classify any number of files, 64 per request; each request's files are read just before it.

    `index` counts over all files and `filename` is the path as given. If the service moved to another version
    between requests, `model_version` is that of the last.

    Raises:
        UploadError: there are no files, or one cannot be read.
        ClientError: a request failed.
    """
    if not files:
        raise UploadError("no image was given")
    results: list[ImageResult] = []
    for start in range(0, len(files), MAX_BATCH):
        batch = files[start : start + MAX_BATCH]
        images = [(sendable(file.name), _read(file)) for file in batch]
        answer = client.classify(
            images,
            top_k=top_k,
            path=path,
            labels=labels,
            template=template,
            with_classes=with_classes,
            zero_shot=zero_shot,
            set_coverage=set_coverage,
            known_share=known_share,
            version=version,
        )
        for offset, (file, result) in enumerate(zip(batch, answer["results"], strict=True)):
            results.append({**result, "index": start + offset, "filename": sendable(str(file))})
    return {**answer, "results": results}


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UploadError(f"{path} cannot be read: {error.strerror}") from error

"""Many files as requests of at most 64 images, and their answers as one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from keepsight.client import Client
from keepsight.client.api import Classification, ImageResult, PathName
from keepsight.client.errors import UploadError

MAX_BATCH = 64
"""Images that one request may carry."""


def classify_files(
    client: Client,
    files: Sequence[Path],
    *,
    top_k: int = 5,
    path: PathName = "fused",
    labels: Sequence[str] = (),
    template: str | None = None,
) -> Classification:
    """Classify any number of files, 64 a request, read one request at a time.

    `index` counts over all files and `filename` is the path as given. If the service moved to another version
    between requests, `model_version` is the last one's.

    Raises:
        UploadError: no files, or one cannot be read; or whatever the client raises.
    """
    if not files:
        raise UploadError("there is no image to classify")
    results: list[ImageResult] = []
    for start in range(0, len(files), MAX_BATCH):
        batch = files[start : start + MAX_BATCH]
        images = [(file.name, _read(file)) for file in batch]
        answer = client.classify(images, top_k=top_k, path=path, labels=labels, template=template)
        for offset, (file, result) in enumerate(zip(batch, answer["results"], strict=True)):
            results.append({**result, "index": start + offset, "filename": str(file)})
    return {**answer, "results": results}


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UploadError(f"{path} cannot be read: {error.strerror}") from error

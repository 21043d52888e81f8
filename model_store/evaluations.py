"""What versions answered to the test sets, image by image, beside the versions. Holds no image. Needs no torch.

<root>/evaluations/<version id>/<digest of the test set>.json
"""

from __future__ import annotations

import contextlib
import logging
import re
import uuid
from collections.abc import Collection
from pathlib import Path
from typing import Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, model_validator

from model_store import policy
from model_store.disk import Disk, writing
from model_store.types import JsonObject, VersionId

logger = logging.getLogger(__name__)

FOLDER = "evaluations"
_DIGEST = re.compile(r"[0-9a-f]{64}")


class PathAnswers(BaseModel):
    """Answers in the order of `StoredEvaluation.numbers`: a position in its `names`, or None for no answer."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    text: tuple[int | None, ...]
    visual: tuple[int | None, ...]
    fused: tuple[int | None, ...]


class StoredEvaluation(BaseModel):
    """A version's answers to the images of a test set.

    Attributes:
        version_id: the version.
        test_set: the set's name when it was measured.
        digest: that of the set.
        at: when it was measured.
        seconds: how long that took; images that another version's pass has seen already cost less.
        images_in_all: images of the set.
        results: what follows from the answers, for readers that need no more.
        names: the names that `labels` and `answers` point into; the version's classes are the first `known` of them.
        known: number of classes of the version.
        numbers: the images that were measured, by their number in the set, ascending.
        labels: their labels.
        answers: the best class by each path, among all of the version's.
        probability: that of the fused path's answer, in [0, 1].
        unknown: whether the image looks like none of the version's classes; None: the version cannot tell.
        label_sets: how many labels the prediction set has; negative where the right one is not among them. None: the
            version has none.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    version_id: VersionId
    test_set: str
    digest: str
    at: AwareDatetime
    seconds: float = Field(ge=0)
    images_in_all: int = Field(ge=1)
    results: JsonObject
    names: tuple[str, ...]
    known: int = Field(ge=0)
    numbers: tuple[int, ...]
    labels: tuple[int, ...]
    answers: PathAnswers
    probability: tuple[float, ...]
    unknown: tuple[bool, ...] | None
    label_sets: tuple[int, ...] | None

    @model_validator(mode="after")
    def _of_equal_length(self) -> Self:
        columns = (self.labels, self.probability, self.answers.text, self.answers.visual, self.answers.fused)
        lengths = {len(column) for column in (*columns, self.unknown or self.numbers, self.label_sets or self.numbers)}
        if lengths != {len(self.numbers)}:
            raise ValueError(f"expected {len(self.numbers)} rows in every column, got {sorted(lengths)}")
        return self

    @property
    def is_whole(self) -> bool:
        """Whether all images of the set were measured."""
        return len(self.numbers) == self.images_in_all

    def answers_by_number(self) -> dict[int, tuple[str, str | None]]:
        """Return the label and the fused answer of every image whose label the version knows, by its number."""
        rows = zip(self.numbers, self.labels, self.answers.fused, strict=True)
        return {
            number: (self.names[label], None if answer is None else self.names[answer])
            for number, label, answer in rows
            if label < self.known
        }


class Evaluations:
    """The stored evaluations of a store's versions. Each file appears whole or not at all.

    Args:
        root: the store's.
        disk: all writes go through it.
    """

    def __init__(self, root: Path, *, disk: Disk | None = None) -> None:
        self._root = root / FOLDER
        self._disk = disk or Disk()

    def save(self, evaluation: StoredEvaluation) -> None:
        """Store an evaluation; it replaces the one of the same version and set.

        Raises:
            StoreFullError: the disk is full; what was there stays.
            StoreError: it could not be written.
        """
        path = self.path(evaluation.version_id, evaluation.digest)
        new = path.with_name(f".{path.name}-{uuid.uuid4().hex}")
        try:
            with writing(f"writing {path}"):
                self._disk.make_folder(path.parent)
                self._disk.write_file(new, evaluation.model_dump_json().encode())
                self._disk.rename(new, path)
                self._disk.sync_folder(path.parent)
        except BaseException:
            with contextlib.suppress(OSError):
                self._disk.remove(new)
            raise

    def get(self, version_id: VersionId, digest: str) -> StoredEvaluation | None:
        """Return a version's evaluation on a set; None if there is none, or it cannot be read."""
        path = self.path(version_id, digest)
        try:
            found = StoredEvaluation.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValidationError) as error:
            logger.warning("%s cannot be read, so it counts as not measured: %s", path, type(error).__name__)
            return None
        return found if (found.version_id, found.digest) == (version_id, digest) else None

    def path(self, version_id: VersionId, digest: str) -> Path:
        """Return where a version's evaluation on a set is."""
        assert _DIGEST.fullmatch(digest), digest
        return self._root / policy.check_version_id(version_id) / f"{digest}.json"

    def left_over(self, versions: Collection[VersionId], digests: Collection[str]) -> list[Path]:
        """Return what belongs to no version or to no set any more. Files that are being written are left out."""
        if not self._root.is_dir():
            return []
        found: list[Path] = []
        for folder in self._root.iterdir():
            if folder.name not in versions:
                found.append(folder)
            else:
                files = (path for path in folder.iterdir() if not path.name.startswith("."))
                found += [path for path in files if path.name.removesuffix(".json") not in digests]
        return found

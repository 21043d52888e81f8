"""What a request with labels asks: which of them are taught classes, which are new words, and who scores those."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from app.errors import InvalidRequestError
from app.serving.live_model import Served
from segp_cl.types import Path

ZeroShot = Literal["untouched", "adapted"]
"""The towers that score words: the base model's, or those with the version's adapters."""


@dataclass(frozen=True)
class Question:
    """Labels to rank.

    Attributes:
        labels: in the order sent, then the version's other classes if they are asked for too.
        prompts: what the text tower reads for each.
        rows: the version's class that has the label's name; None: a word.
        path: ranks the classes among themselves.
        untouched: words are scored by the base model, and compete with classes by how likely the image shows one;
            else all labels are words, scored by the version's own text path.
    """

    labels: tuple[str, ...]
    prompts: tuple[str, ...]
    rows: tuple[int | None, ...]
    path: Path
    untouched: bool

    @classmethod
    def of(
        cls, served: Served, words: Mapping[str, str], *, path: Path, zero_shot: ZeroShot | None, with_classes: bool
    ) -> Question:
        """Sort a request's labels.

        Args:
            served: the version that answers.
            words: the labels with their prompts; a class keeps the prompt that it was taught with.
            path: ranks the classes.
            zero_shot: None: `untouched` where that takes no second pass.
            with_classes: rank the version's classes beside the labels.

        Raises:
            InvalidRequestError: words are to be ranked by their visual prototypes.
        """
        state = served.classifier.state
        untouched = zero_shot == "untouched" or (zero_shot is None and not state.moves_image_tower)
        classes = {known.name: row for row, known in enumerate(state.classes)}
        labels = [*words, *(name for name in classes if with_classes and name not in words)]
        if not untouched:
            prompts = [words[label] if label in words else state.classes[classes[label]].prompt for label in labels]
            rows: Sequence[int | None] = [None] * len(labels)
        else:
            rows = [classes.get(label) for label in labels]
            prompts = [
                words[label] if row is None else state.classes[row].prompt
                for label, row in zip(labels, rows, strict=True)
            ]
        if path == "visual" and None in rows:
            raise InvalidRequestError(
                "labels that were never taught have no visual prototypes; use path=text or path=fused"
            )
        return cls(tuple(labels), tuple(prompts), tuple(rows), path, untouched)

    @cached_property
    def taught(self) -> list[int]:
        """Places of the labels that are taught classes."""
        return [place for place, row in enumerate(self.rows) if row is not None]

    @cached_property
    def taught_rows(self) -> list[int]:
        """The classes' rows in the version, in the order of `taught`."""
        return [row for row in self.rows if row is not None]

    @cached_property
    def new(self) -> list[int]:
        """Places of the labels that are words."""
        return [place for place, row in enumerate(self.rows) if row is None]

    @property
    def answered_by(self) -> Path:
        """The path that ranks: words alone are ranked by the text path."""
        return self.path if self.taught else "text"

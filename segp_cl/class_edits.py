"""What an edit of the classes is asked to do. Needs no torch."""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from segp_cl.errors import ClassExistsError, ClassNotFoundError

EditKind = Literal["rename", "swap", "merge", "delete", "replace"]
MOST_CLASSES = 1000
"""Most classes that one edit merges."""


class ClassEdit(BaseModel):
    """One edit of the classes of a version.

    - `rename`: one class gets another `name`, or another `prompt`, or both.
    - `swap`: two classes exchange their names and prompts.
    - `merge`: several classes become one with this `name` and `prompt`, as if it had been taught with all their images.
    - `delete`: one class is taken away.
    - `replace`: one class is taken away and taught anew with other images, under its name and prompt.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: EditKind
    classes: tuple[str, ...] = Field(min_length=1, max_length=MOST_CLASSES)
    name: str | None = Field(None, min_length=1)
    prompt: str | None = Field(None, min_length=1)

    @model_validator(mode="after")
    def _whole(self) -> ClassEdit:
        expected = {"swap": 2, "rename": 1, "delete": 1, "replace": 1}.get(self.kind)
        if len(set(self.classes)) != len(self.classes):
            raise ValueError("a class is named twice")
        if expected is not None and len(self.classes) != expected:
            raise ValueError(f"{self.kind} takes {expected} classes, not {len(self.classes)}")
        if self.kind == "merge" and (len(self.classes) < 2 or self.name is None or self.prompt is None):
            raise ValueError("a merge takes two classes or more, and the name and prompt of what they become")
        if self.kind == "rename" and self.name is None and self.prompt is None:
            raise ValueError("a rename takes another name, another prompt, or both")
        if self.kind not in ("rename", "merge") and (self.name is not None or self.prompt is not None):
            raise ValueError(f"{self.kind} takes neither a name nor a prompt")
        return self

    def check(self, known: Collection[str]) -> None:
        """Check that the classes that a version knows can be edited so.

        Raises:
            ClassNotFoundError: a class is not known.
            ClassExistsError: the new name is that of a class that stays.
        """
        for name in self.classes:
            if name not in known:
                raise ClassNotFoundError(f"the class {name!r} is not known")
        if self.name is not None and self.name in known and self.name not in self.classes:
            raise ClassExistsError(f"there is a class {self.name!r}; merge the two, or swap their names")

    @property
    def words(self) -> str:
        """The edit in a few words, for journals and lists."""
        named = ", ".join(repr(name) for name in self.classes[:5]) + (" and more" if len(self.classes) > 5 else "")
        match self.kind:
            case "rename":
                return (
                    f"prompt of {named}: {self.prompt!r}" if self.name is None else f"rename {named} to {self.name!r}"
                )
            case "swap":
                return f"swap the names {self.classes[0]!r} and {self.classes[1]!r}"
            case "merge":
                return f"merge {named} into {self.name!r}"
            case _:
                return f"{self.kind} {named}"

"""Says what an edit of the classes would change, before it is made. Nothing is queued, and no model runs."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from app.class_facts import ClassFacts, class_facts
from app.edits import MAX_NAME, ClassMergeBody, ClassPatch, known_classes, merging, named, renaming
from app.errors import InvalidRequestError
from app.evaluations import labels_by
from model_store.naming import Namings
from model_store.store import Store
from model_store.test_sets import StoredTestSets
from model_store.types import VersionId
from segp_cl.class_edits import MOST_CLASSES, ClassEdit, EditKind
from segp_cl.learn.edits import told


class PreviewBody(BaseModel):
    """An edit that is thought of: what `PATCH`, `DELETE`, merge and replace would be asked."""

    model_config = ConfigDict(extra="forbid", strict=True)

    kind: EditKind
    classes: Annotated[list[Annotated[str, Field(max_length=MAX_NAME)]], Field(min_length=1, max_length=MOST_CLASSES)]
    name: str | None = Field(None, max_length=MAX_NAME, description="The new name, of a rename or a merge.")
    prompt: str | None = Field(None, min_length=1, max_length=500, description="The new prompt, likewise.")


class ConcernedSet(BaseModel):
    """A test set with images of the classes that are edited."""

    test_set: str
    images: int


class EditPreview(BaseModel):
    """What an edit of the current version's classes would change."""

    edit: ClassEdit
    words: str = Field(description="The edit in a few words.")
    version_id: VersionId = Field(description="The version that it would be made on.")
    classes_before: int
    classes_after: int
    affected: list[ClassFacts] = Field(description="What is known of the classes that are edited.")
    statistics: Literal["exact", "approximate"] = Field(
        description="Whether the new version knows the others as if it had always been so."
    )
    removed: list[str] = Field(description="What is taken away, in sentences; of delete and replace.")
    remains: list[str] = Field(description="What cannot be taken away.")
    test_sets: list[ConcernedSet]


def preview(store: Store, sets: StoredTestSets, body: PreviewBody) -> EditPreview:
    """Return what an edit would change. Reads the store: run it in a thread.

    Raises:
        ClassNotFoundError: there is no such class.
        ClassExistsError: the new name is that of a class that stays, or looks like it.
        InvalidRequestError: the edit cannot be meant so.
        TaskRefusedError: the new name cannot be a class's.
        StoreError: CURRENT cannot be read.
    """
    known, current = known_classes(store)
    edit = _edit(store, body)
    edit.check(known)
    said = told(store.open(current, verify=False), edit)
    after = len(known) - (1 if edit.kind == "delete" else len(edit.classes) - 1 if edit.kind == "merge" else 0)
    facts = class_facts(store, sets, current)
    namings = Namings(store)
    concerned = []
    for test_set in sets.all():
        called = labels_by(namings, test_set, namings.of(current))
        images = sum(count for label, count in test_set.images_per_class.items() if called[label] in edit.classes)
        if images:
            concerned.append(ConcernedSet(test_set=test_set.name, images=images))
    return EditPreview.model_validate(
        {
            "removed": [],
            "remains": [],
            **said,
            "edit": edit,
            "version_id": current,
            "classes_before": len(known),
            "classes_after": after,
            "affected": [found for found in facts.classes if found.name in edit.classes],
            "test_sets": concerned,
        }
    )


def _edit(store: Store, body: PreviewBody) -> ClassEdit:
    """Return the edit that the route would make of the same wish."""
    names, takes = body.classes, {"merge": (2, MOST_CLASSES), "swap": (2, 2)}.get(body.kind, (1, 1))
    if not takes[0] <= len(names) <= takes[1]:
        raise InvalidRequestError(f"{body.kind} takes {takes[0]} classes, got {len(names)}")
    if body.kind not in ("rename", "merge") and (body.name is not None or body.prompt is not None):
        raise InvalidRequestError(f"{body.kind} takes neither a name nor a prompt")
    match body.kind:
        case "rename" if body.name is None and body.prompt is None:
            raise InvalidRequestError("a rename takes another name, another prompt, or both")
        case "rename":
            return renaming(store, names[0], ClassPatch(name=body.name, prompt=body.prompt))
        case "swap":
            return renaming(store, names[0], ClassPatch(name=names[1], swap=True))
        case "merge":
            if body.name is None:
                raise InvalidRequestError("a merge takes the name of what the classes become")
            return merging(store, ClassMergeBody(classes=names, name=body.name, prompt=body.prompt))
        case _:
            return ClassEdit(kind=body.kind, classes=(named(names[0]),))

"""The description of the API, which is written once, and the parts of it that routes share."""

from __future__ import annotations

import json
from functools import cache
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

from fastapi import FastAPI
from pydantic import BaseModel

from app.problems import PROBLEM_JSON

DOCUMENT: Final = Path(__file__).with_name("openapi.json")
"""What servers answer as their description. Making it takes half a second of every start; it is as the routes are."""

_ANY_ROUTE = (400, 413, 422, 431)
"""What any request may be answered before its route sees it: by its form, its size and its headers."""

TAGS = [
    {"name": "classify", "description": "Classify images."},
    {"name": "embeddings", "description": "Vectors of images and texts, for search and comparison."},
    {"name": "open inference", "description": "The Open Inference Protocol (v2), for its clients."},
    {"name": "tasks", "description": "Teach new classes from labelled images."},
    {"name": "corrections", "description": "Keep right labels of images that were answered wrongly, and learn them."},
    {"name": "jobs", "description": "Follow and cancel the learning of a task."},
    {"name": "test sets", "description": "Store labelled images to measure versions on, and compare versions."},
    {"name": "classes", "description": "List, rename, merge, replace and delete classes."},
    {"name": "versions", "description": "List, merge, keep, verify and export versions."},
    {"name": "admin", "description": "Promote and roll back versions."},
    {"name": "health", "description": "Health checks and metrics. No key is needed."},
]

DESCRIPTION = """
An image-classification service that keeps learning: teach it new classes while it runs, and roll back if you do
not like the result. Every error is a problem document (RFC 9457). If the server has API keys, send one as
`Authorization: Bearer ks_…`. None of the scopes `classify`, `train` and `admin` includes another.
"""


class DescribedApp(FastAPI):
    """An application whose description was written before, by `scripts/describe`."""

    def openapi(self) -> dict[str, Any]:
        """Return the OpenAPI document of the file. It is read once in a process, and must not be changed."""
        return _document()


@cache
def _document() -> dict[str, Any]:
    document: dict[str, Any] = json.loads(DOCUMENT.read_text(encoding="utf-8"))
    return document


def described(app: FastAPI) -> dict[str, Any]:
    """Return the OpenAPI document as an application's routes say it now."""
    return FastAPI.openapi(app)


def json_body(model: type[BaseModel], **more: Any) -> dict[str, Any]:
    """Return a required JSON body for the documentation of a route that reads it itself."""
    return {"required": True, "content": {"application/json": {"schema": model.model_json_schema(), **more}}}


def body_with_archive(model: type[BaseModel], archive: str, **examples: Any) -> dict[str, Any]:
    """Return the documentation of a form with an archive; `archive` describes it, `examples` replace fields."""
    schema = model.model_json_schema(mode="validation")
    properties = {"archive": {"type": "string", "format": "binary", "description": archive}, **schema["properties"]}
    required = ["archive", *schema.get("required", [])]
    whole = {**schema, "required": required, "properties": {**properties, **examples}}
    return {"required": True, "content": {"multipart/form-data": {"schema": whole}}}


def problems(*statuses: int, keyed: bool = True) -> dict[int | str, dict[str, Any]]:
    """Return a route's problem answers for its documentation.

    Args:
        statuses: the statuses of the route's own.
        keyed: adds those of a missing key or scope, and of keys that cannot be read.
    """
    every = {*statuses, *_ANY_ROUTE, *((401, 403, 503) if keyed else ())}
    return {
        status: {
            "description": HTTPStatus(status).phrase,
            "content": {PROBLEM_JSON: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
        for status in sorted(every)
    }

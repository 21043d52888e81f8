"""What the routes' documentation has in common."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from app.problems import PROBLEM_JSON

TAGS = [
    {"name": "classify", "description": "Ask what is on images."},
    {"name": "embeddings", "description": "Vectors of images and texts, for search and comparison."},
    {"name": "open inference", "description": "The Open Inference Protocol (v2), for its clients."},
    {"name": "tasks", "description": "Teach new classes from labelled images."},
    {"name": "jobs", "description": "Follow and cancel the learning of a task."},
    {"name": "versions", "description": "What was learned when, and what is served."},
    {"name": "admin", "description": "Move the pointer between versions."},
    {"name": "health", "description": "For machines that watch the server. No key is needed."},
]

DESCRIPTION = """
An image-classification service that keeps learning: teach it new classes while it runs, take them back when you
don't like it. Every error is a problem document (RFC 9457). Where API keys exist, send one as
`Authorization: Bearer ks_…`; its scopes `classify`, `train` and `admin` do not contain one another.
"""


def problems(*statuses: int, keyed: bool = True) -> dict[int | str, dict[str, Any]]:
    """The problem answers of a route, for its documentation; `keyed` adds those of a missing or weak key."""
    every = {*statuses, *((401, 403) if keyed else ())}
    return {
        status: {
            "description": HTTPStatus(status).phrase,
            "content": {PROBLEM_JSON: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
        for status in sorted(every)
    }

"""Records that may be published: without the absolute paths of the machine that made them."""

from __future__ import annotations

import json

from benchmarks.accuracy.record import BenchmarkRecord
from benchmarks.common.record import last_components

_FREE_TEXT = frozenset({"classes", "template"})
"""Fields whose strings are the data set's own words, never paths."""


def without_paths(record: BenchmarkRecord) -> BenchmarkRecord:
    """The same record with every absolute path cut down to its last component, and free-form mappings sorted by key."""
    return BenchmarkRecord.model_validate_json(json.dumps(_clean(json.loads(record.model_dump_json()))))


def _clean(value: object, field: str = "") -> object:
    if field in _FREE_TEXT:
        return value
    if isinstance(value, str):
        return last_components(value)
    if isinstance(value, list):
        return [_clean(entry) for entry in value]
    if isinstance(value, dict):
        names = sorted(value) if field in {"settings", "versions"} else value
        return {name: _clean(value[name], name) for name in names}
    return value

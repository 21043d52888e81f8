"""Records that may be published: without the absolute paths of the machine that made them."""

from __future__ import annotations

import json
import re
from pathlib import PurePosixPath, PureWindowsPath

from benchmarks.accuracy.record import BenchmarkRecord

_FREE_TEXT = frozenset({"classes", "template"})
"""Fields whose strings are the data set's own words, never paths."""

_LOCAL_MODEL = "local-dir:"
"""open_clip's schema for a model in a folder."""

_STEP = r"[^\\/\s\"'`,;:()\[\]{}]+"
_PATH = re.compile(rf"(?:file://|(?<![\w.:/~-]))(?:~?(?:/{_STEP})+|[A-Za-z]:(?:[\\/]{_STEP})+)[\\/]?")


def without_paths(record: BenchmarkRecord) -> BenchmarkRecord:
    """The same record with every absolute path cut down to its last component, and free-form mappings sorted by key."""
    return BenchmarkRecord.model_validate_json(json.dumps(_clean(json.loads(record.model_dump_json()))))


def _clean(value: object, field: str = "") -> object:
    if field in _FREE_TEXT:
        return value
    if isinstance(value, str):
        return _last_components(value)
    if isinstance(value, list):
        return [_clean(entry) for entry in value]
    if isinstance(value, dict):
        names = sorted(value) if field in {"settings", "versions"} else value
        return {name: _clean(value[name], name) for name in names}
    return value


def _last_components(text: str) -> str:
    if text.startswith(_LOCAL_MODEL):
        return _LOCAL_MODEL + _last_components(text.removeprefix(_LOCAL_MODEL))
    # a text that is one path may have spaces in it, which the pattern for paths inside a sentence cannot follow
    for flavour in (PurePosixPath, PureWindowsPath):
        if flavour(text).is_absolute():
            return flavour(text).name
    return _PATH.sub(lambda found: PureWindowsPath(found.group()).name, text)

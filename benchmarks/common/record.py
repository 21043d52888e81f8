"""Records on disk: every file is written whole or not at all, and none names a path of the machine."""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

Record = dict[str, Any]

_LOCAL_MODEL = "local-dir:"
"""open_clip's schema for a model in a folder."""

_STEP = r"[^\\/\s\"'`,;:()\[\]{}]+"
_PATH = re.compile(rf"(?:file://|(?<![\w.:/~-]))(?:~?(?:/{_STEP})+|[A-Za-z]:(?:[\\/]{_STEP})+)[\\/]?")


def load_json(path: Path) -> Record:
    """The record at `path`; an empty one if there is none."""
    if not path.exists():
        return {}
    record: Record = json.loads(path.read_text(encoding="utf-8"))
    return record


def save_json(path: Path, record: Mapping[str, Any]) -> None:
    """Write `record`, whole or not at all.

    Raises:
        ValueError: it holds a number that is not finite.
    """
    save_bytes(path, (json.dumps(record, indent=1, allow_nan=False) + "\n").encode())


def save_bytes(path: Path, content: bytes) -> None:
    """Write `content`, whole or not at all; the folder is made if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


def save_files(folder: Path, contents: Mapping[str, bytes | None]) -> None:
    """Write files by name, one after another and each whole or not at all; those that are None are removed."""
    for name, content in contents.items():
        if content is None:
            (folder / name).unlink(missing_ok=True)
        else:
            save_bytes(folder / name, content)


def last_components(text: str) -> str:
    """The same text with every absolute path cut down to its last component."""
    if text.startswith(_LOCAL_MODEL):
        return _LOCAL_MODEL + last_components(text.removeprefix(_LOCAL_MODEL))
    # a text that is one path may have spaces in it, which the pattern for paths inside a sentence cannot follow
    for flavour in (PurePosixPath, PureWindowsPath):
        if flavour(text).is_absolute():
            return flavour(text).name
    return _PATH.sub(lambda found: PureWindowsPath(found.group()).name, text)

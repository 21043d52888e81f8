"""Which files Docker sends to a build: the rules of `.dockerignore`, as BuildKit applies them."""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path


class IgnoreFile:
    """A file is left out if the last pattern that matches it, or a folder that it is in, is not negated."""

    def __init__(self, text: str) -> None:
        self._patterns: list[tuple[re.Pattern[str], bool]] = []
        self._kept: list[str] = []
        for line in text.splitlines():
            if line.startswith("#") or not line.strip():
                continue
            kept = line.strip().startswith("!")
            pattern = posixpath.normpath(line.strip().removeprefix("!").strip()).lstrip("/")
            self._patterns.append((re.compile(_expression(pattern)), kept))
            if kept:
                self._kept.append(pattern)

    def ignores(self, path: str) -> bool:
        """Whether a path, relative to the context and with slashes, is left out."""
        parts = path.split("/")
        names = ["/".join(parts[:count]) for count in range(1, len(parts) + 1)]
        ignored = False
        for expression, kept in self._patterns:
            if any(expression.fullmatch(name) for name in names):
                ignored = not kept
        return ignored

    def context(self, root: Path) -> Iterator[str]:
        """The files below `root` that are sent, as paths relative to it."""
        for folder, folders, files in os.walk(root):
            relative = Path(folder).relative_to(root)
            folders[:] = [name for name in folders if self._may_keep((relative / name).as_posix())]
            yield from (path for name in files if not self.ignores(path := (relative / name).as_posix()))

    def _may_keep(self, folder: str) -> bool:
        wild = any("*" in pattern.split("/")[0] for pattern in self._kept)
        return wild or not self.ignores(folder) or any(name.startswith(f"{folder}/") for name in self._kept)


def _expression(pattern: str) -> str:
    tokens = re.findall(r"\*\*/?|\\.|\[(?:\\.|[^]])*\]|.", pattern)
    expression = ""
    for position, token in enumerate(tokens):
        if token.startswith("**"):
            expression += ".*" if position == len(tokens) - 1 else "(?:.*/)?"
        elif token == "*":
            expression += "[^/]*"
        elif token == "?":
            expression += "[^/]"
        elif token.startswith(("[", "\\")) and len(token) > 1:
            expression += token
        else:
            expression += re.escape(token)
    return expression

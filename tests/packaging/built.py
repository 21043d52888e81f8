"""What a release consists of, and how a program is kept from the source tree."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Distributions:
    """The files that a release consists of, and the tracked files that they were built from."""

    folder: Path
    tracked: frozenset[str]

    def wheel(self, name: str) -> Path:
        (found,) = self.folder.glob(f"{name.replace('-', '_')}-[0-9]*.whl")
        return found

    def sdist(self, name: str) -> Path:
        (found,) = self.folder.glob(f"{name.replace('-', '_')}-[0-9]*.tar.gz")
        return found


def clean_environment() -> dict[str, str]:
    """This process's environment, without what would lead a program to the source tree or to a running service."""
    ours = ("PYTHONPATH", "VIRTUAL_ENV")
    return {name: value for name, value in os.environ.items() if name not in ours and not name.startswith("KEEPSIGHT_")}

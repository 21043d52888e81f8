"""The classes of made-up versions: known to those who only ask for them, without importing torch."""

from __future__ import annotations

from typing import Final

CLASSES: Final = 100


def labels(count: int = CLASSES) -> list[str]:
    """The classes' names."""
    return [f"thing number {number}" for number in range(1, count + 1)]


def prompts(count: int = CLASSES) -> list[str]:
    """The sentence of every class."""
    return [f"a photo of a {label}." for label in labels(count)]

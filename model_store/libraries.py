"""The libraries that a result depends on, as installed."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

LIBRARIES = ("keepsight", "numpy", "open_clip_torch", "pillow", "timm", "torch", "transformers")


def installed_libraries() -> dict[str, str]:
    """Distribution -> version of those of `LIBRARIES` that are installed."""
    found: dict[str, str] = {}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found

"""The installed versions of the libraries that a result depends on."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

LIBRARIES = ("keepsight", "numpy", "open_clip_torch", "pillow", "timm", "torch", "transformers")


def installed_libraries() -> dict[str, str]:
    """Return the version of each distribution in `LIBRARIES` that is installed, by name."""
    found: dict[str, str] = {}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found

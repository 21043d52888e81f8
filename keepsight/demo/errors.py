"""The demo's error."""

from __future__ import annotations


class DemoError(Exception):
    """The tour cannot start, or one of its steps failed. The message says why."""

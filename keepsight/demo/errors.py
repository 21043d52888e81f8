"""What ends the tour."""

from __future__ import annotations


class DemoError(Exception):
    """The tour cannot be taken, or one of its steps failed. The message says why."""

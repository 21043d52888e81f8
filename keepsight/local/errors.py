"""Errors of the service on this machine."""

from __future__ import annotations


class LocalError(Exception):
    """The service on this machine cannot be started or stopped as asked. The message says why."""


class StartError(LocalError):
    """`keepsight up` cannot start, or a part of it died."""

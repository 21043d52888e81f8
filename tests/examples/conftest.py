"""The server's fixtures, for examples that speak to one."""

from __future__ import annotations

from tests.integration.app.conftest import (
    _load_the_tiny_model_once,
    configure,
    listen,
    picture,
    store,
    teach,
)

__all__ = ["_load_the_tiny_model_once", "configure", "listen", "picture", "store", "teach"]

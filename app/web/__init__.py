"""The page that people use in a browser: rendered here, with small scripts that call the documented API."""

from __future__ import annotations

from app.web.site import install

__all__ = ["install"]

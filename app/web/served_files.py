"""The page's files: each is served under the digest of them all, so that browsers may keep it for ever."""

from __future__ import annotations

import asyncio
import functools
import gzip
import hashlib
import mimetypes
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fastapi import Request
from fastapi.responses import Response
from starlette.exceptions import HTTPException

FOLDER: Final = Path(__file__).parent / "assets"
_FOR_EVER = "public, max-age=31536000, immutable"
_WORTH_COMPRESSING = frozenset({".css", ".js", ".json", ".mjs", ".svg"})
_TYPES = {".js": "text/javascript", ".mjs": "text/javascript", ".svg": "image/svg+xml"}


@dataclass(frozen=True)
class Shipped:
    """One file with its bytes, and the same compressed where that is worth it."""

    content: bytes
    compressed: bytes | None
    media_type: str


@functools.cache
def _paths() -> dict[str, Path]:
    return {path.relative_to(FOLDER).as_posix(): path for path in sorted(FOLDER.rglob("*")) if path.is_file()}


def known(name: str) -> None:
    """Check that there is a file of this name.

    Raises:
        KeyError: there is none.
    """
    _paths()[name]


@functools.cache
def digest() -> str:
    """Return the digest of all files and their names, shortened: part of their addresses."""
    whole = hashlib.sha256()
    for name, path in _paths().items():
        whole.update(f"{name}\0".encode())
        whole.update(hashlib.sha256(path.read_bytes()).digest())
    return whole.hexdigest()[:16]


@functools.cache
def shipped(name: str) -> Shipped:
    """Return a file, compressed once. Takes tens of milliseconds for the largest: run it in a thread.

    Raises:
        KeyError: there is no such file.
    """
    path = _paths()[name]
    content = path.read_bytes()
    kind = _TYPES.get(path.suffix) or mimetypes.guess_type(name)[0] or "application/octet-stream"
    if path.suffix not in _WORTH_COMPRESSING:
        return Shipped(content, None, kind)
    return Shipped(content, gzip.compress(content, 9, mtime=0), kind)


async def answer(request: Request, wanted: str, name: str) -> Response:
    """Answer a request for a file under the digest `wanted`.

    Raises:
        HTTPException: 404: there is no such file, or its address is that of another release.
    """
    if wanted != digest() or name not in _paths():
        raise HTTPException(404, "there is no such file; load the page again")
    file = await asyncio.to_thread(shipped, name)
    headers = {"Cache-Control": _FOR_EVER, "Vary": "Accept-Encoding", "X-Content-Type-Options": "nosniff"}
    accepted = {part.partition(";")[0].strip() for part in request.headers.get("accept-encoding", "").split(",")}
    if file.compressed is not None and "gzip" in accepted:
        return Response(file.compressed, media_type=file.media_type, headers={**headers, "Content-Encoding": "gzip"})
    return Response(file.content, media_type=file.media_type, headers=headers)

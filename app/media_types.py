"""The media type of a request's body."""

from __future__ import annotations

from fastapi import Request
from starlette.exceptions import HTTPException


def check_not_compressed(request: Request) -> None:
    """Refuse a body that is compressed: what it unpacks to is no longer what was counted.

    Raises:
        HTTPException: 415.
    """
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding != "identity":
        raise HTTPException(415, f"the body has the Content-Encoding {encoding[:60]!r}; send it as it is")


def media_type(request: Request, *expected: str) -> str:
    """Return the media type of the body, in lower case and without parameters.

    Args:
        request: the request.
        expected: the types that the route reads; `image/*` stands for all of its kind.

    Raises:
        HTTPException: 415 for any other type, and for a body that is compressed.
    """
    check_not_compressed(request)
    sent = request.headers.get("content-type", "")
    kind = sent.partition(";")[0].strip().lower()
    family, slash, _ = kind.partition("/")
    if kind in expected or (slash and f"{family}/*" in expected):
        return kind
    got = f"is {sent[:60]!r}" if sent else "is missing"
    raise HTTPException(415, f"the Content-Type {got}; send {' or '.join(expected)}")

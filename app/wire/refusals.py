"""What is answered to a connection before, or instead of, the application: each refusal ends the connection."""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import Self

import httptools
from starlette.responses import Response

from app.errors import StoppingError, TooManyConnectionsError
from app.problems import phrase_problem, problem_response, response_for

ALLOW = "GET, HEAD, POST, DELETE, OPTIONS"
_HOST = re.compile(rb"(\[[0-9A-Fa-f:.]+\]|[^\x00-\x20\x7f-\xff/?#@\\:\[\]<>\"{}|^`]*)(:[0-9]{0,5})?")


class RefusedError(Exception):
    """The request is refused, and the connection ends.

    Attributes:
        reason: a short name, for metrics.
        response: the answer.
    """

    def __init__(self, reason: str, response: Response) -> None:
        super().__init__(reason)
        self.reason = reason
        self.response = response

    @classmethod
    def of(cls, status: int, detail: str) -> Self:
        """Return a refusal with one of HTTP's own statuses."""
        document = phrase_problem(status, detail)
        headers = {"Allow": ALLOW} if status == HTTPStatus.METHOD_NOT_ALLOWED else None
        return cls(document["type"].rpartition(":")[2], problem_response(document, headers))


def stopping() -> RefusedError:
    """Return the refusal of a server that stops."""
    return RefusedError("stopping", response_for(StoppingError("the server is stopping; send the request again")))


def no_room(most: int) -> RefusedError:
    """Return the refusal of a server that has as many connections as it may."""
    error = TooManyConnectionsError(f"{most} connections are open, and no more are allowed")
    return RefusedError("no-room", response_for(error))


def unreadable(error: httptools.HttpParserError, data: bytes) -> RefusedError:
    """Return the refusal of bytes that the parser cannot read, or of what a callback of the parser raised."""
    ours = error.__context__
    if isinstance(ours, RefusedError):
        return ours
    if data.startswith(b"PRI * HTTP/2"):
        return RefusedError.of(400, "HTTP/2 is not spoken here; expected HTTP/1.1")
    if data.startswith(b"\x16\x03"):
        return RefusedError.of(400, "this port speaks HTTP without TLS")
    said = "" if isinstance(error, httptools.HttpParserCallbackError) else f": {str(error)[:1].lower()}{str(error)[1:]}"
    return RefusedError.of(400, f"the request is no valid HTTP{said}")


def check_head(method: bytes, target: bytes, version: str, hosts: list[bytes], coding: bytes | None) -> None:
    """Check a head that the parser takes, but that this server does not serve.

    Args:
        method: as it was sent.
        target: what the request line asks for.
        version: of HTTP.
        hosts: the values of all Host headers.
        coding: the Transfer-Encoding, if there is one.

    Raises:
        RefusedError: what is wrong with it.
    """
    if version not in ("1.1", "1.0"):
        raise RefusedError.of(400, f"HTTP/{version} is not spoken here; expected HTTP/1.1")
    if method == b"CONNECT":
        raise RefusedError.of(405, "this server is no proxy")
    if target == b"*" and method != b"OPTIONS":
        raise RefusedError.of(400, "only OPTIONS may be asked of *")
    if version == "1.1" and not hosts:
        raise RefusedError.of(400, "the request has no Host header")
    if len(hosts) > 1:
        raise RefusedError.of(400, f"the request has {len(hosts)} Host headers; expected one")
    if hosts and not _HOST.fullmatch(hosts[0].strip()):
        raise RefusedError.of(400, "the Host header is no host name or address with a port")
    if coding is not None and (version == "1.0" or coding.strip().lower() != b"chunked"):
        raise RefusedError.of(400, "the Transfer-Encoding is not understood; expected chunked, over HTTP/1.1")

"""HTTP/1.1 over one connection that stays open, as cheaply as Python can: what the load costs must not weigh."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Sequence
from typing import Any, Literal, cast

import httptools
from pydantic import BaseModel, ConfigDict

_BOUNDARY = "keepsightbenchmark"
Style = Literal["multipart", "raw", "openai"]


class Shape(BaseModel):
    """How a server wants its images.

    Attributes:
        path: Of the route, with its query.
        style: `multipart` (one part an image), `raw` (the bytes alone) or `openai` (JSON with data URIs).
        field: The parts' name.
        extra: Further members of the JSON body.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str
    style: Style
    field: str = "images"
    extra: dict[str, str] = {}

    def request(self, images: Sequence[bytes]) -> bytes:
        """A whole request, head and body.

        Raises:
            ValueError: several images where the style takes one.
        """
        kind, body = self._body(images)
        head = f"POST {self.path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}"
        return head.encode() + b"\r\n\r\n" + body

    def _body(self, images: Sequence[bytes]) -> tuple[str, bytes]:
        if self.style == "openai":
            uris = ["data:image/jpeg;base64," + base64.b64encode(image).decode() for image in images]
            return "application/json", json.dumps({"input": uris, **self.extra}).encode()
        if self.style == "raw":
            if len(images) != 1:
                raise ValueError(f"a raw body holds one image, got {len(images)}")
            return "application/octet-stream", images[0]
        return f"multipart/form-data; boundary={_BOUNDARY}", multipart(images, self.field)


def multipart(images: Sequence[bytes], field: str) -> bytes:
    """The body of a form with one file part for each image."""
    parts = [
        f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="{field}"; filename="{i}.jpg"\r\n'
        f"Content-Type: image/jpeg\r\n\r\n".encode()
        + image
        + b"\r\n"
        for i, image in enumerate(images)
    ]
    return b"".join(parts) + f"--{_BOUNDARY}--\r\n".encode()


class Connection(asyncio.Protocol):
    """One connection to 127.0.0.1 that asks one thing at a time; it connects again by itself after it was closed."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._transport: asyncio.Transport | None = None
        self._parser: Any = None
        self._body: list[bytes] = []
        self._waiting: asyncio.Future[tuple[int, bytes]] | None = None

    async def ask(self, request: bytes) -> tuple[int, bytes]:
        """(status, body) of the answer; status 0 if the connection broke before it was whole."""
        loop = asyncio.get_running_loop()
        if self._transport is None or self._transport.is_closing():
            try:
                await loop.create_connection(lambda: self, "127.0.0.1", self._port)
            except OSError:
                return 0, b""
        assert self._transport is not None
        self._body = []
        self._waiting = loop.create_future()
        self._parser = httptools.HttpResponseParser(self)
        self._transport.write(request)
        return await self._waiting

    def close(self) -> None:
        """End the connection."""
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio: it is open."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's does not derive from it

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio: it is closed; whoever waits is told."""
        self._transport = None
        self._tell(0, b"")

    def data_received(self, data: bytes) -> None:
        """asyncio: more of the answer."""
        if self._parser is not None and self._waiting is not None:
            try:
                self._parser.feed_data(data)
            except httptools.HttpParserError:
                self.close()

    def on_body(self, body: bytes) -> None:
        """httptools: a piece of the body."""
        self._body.append(body)

    def on_message_complete(self) -> None:
        """httptools: the answer is whole."""
        if not self._parser.should_keep_alive():
            self.close()
        self._tell(self._parser.get_status_code(), b"".join(self._body))

    def _tell(self, status: int, body: bytes) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None and not waiting.done():
            waiting.set_result((status, body))

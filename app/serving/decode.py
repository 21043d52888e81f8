"""Decodes untrusted bytes to pixels in a small pool of threads. An undecodable image fails alone."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from torch import Tensor

from app.errors import ImageTooLargeError
from segp_cl.data.decoding import decode_image
from segp_cl.data.preprocessing import Preprocessing, to_pixels
from segp_cl.errors import ImageDecodeError, KeepsightError
from segp_cl.runtime.fast_decoding import fast_pixels


class Decoder:
    """Decodes the images of requests off the event loop.

    Args:
        threads: images decoded at the same time, over all requests.
        max_image_bytes: largest image that is decoded, in bytes.
        max_image_pixels: largest image that is decoded, in pixels.
        fast: nearly exact pixels in a fraction of the time (docs/adr/0013).
    """

    def __init__(self, *, threads: int, max_image_bytes: int, max_image_pixels: int, fast: bool = False) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")
        self._max_bytes = max_image_bytes
        self._max_pixels = max_image_pixels
        self._fast = fast

    async def decode(
        self, images: Sequence[bytes | KeepsightError], preprocessing: Preprocessing
    ) -> list[Tensor | KeepsightError]:
        """Return the uint8 pixels [3, S, S] of every image, or its error, in order.

        An error among `images` (from invalid base64, for instance) is returned unchanged.
        """
        loop = asyncio.get_running_loop()
        if len(images) == 1:  # most requests: no task to gather
            return [await loop.run_in_executor(self._pool, self._one, images[0], preprocessing)]
        return await asyncio.gather(
            *(loop.run_in_executor(self._pool, self._one, image, preprocessing) for image in images)
        )

    def close(self) -> None:
        """End the threads when their work is done."""
        self._pool.shutdown()

    def _one(self, image: bytes | KeepsightError, preprocessing: Preprocessing) -> Tensor | KeepsightError:
        if isinstance(image, KeepsightError):
            return image
        if len(image) > self._max_bytes:
            return ImageTooLargeError(f"the image has {len(image)} bytes; at most {self._max_bytes} are allowed")
        try:
            if self._fast:
                return fast_pixels(image, preprocessing, max_pixels=self._max_pixels)
            return to_pixels(decode_image(image, max_pixels=self._max_pixels), preprocessing)
        except ImageDecodeError as error:
            return error

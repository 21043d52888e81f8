"""Decodes untrusted bytes to pixels in small pools of threads. An undecodable image fails alone."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from app.errors import ImageTooLargeError, TooManyPixelsError
from app.serving.turns import Turns
from segp_cl.data.decoding import Plan, pixels_of, plan_decoding
from segp_cl.data.preprocessing import Preprocessing, resample_exactly
from segp_cl.errors import ImageDecodeError, KeepsightError
from segp_cl.runtime.fast_decoding import plan_fast, resample_fast
from segp_cl.runtime.process import yield_to_others

MAX_REQUEST_PIXELS = 1_000_000_000


@dataclass(frozen=True)
class _Cost:
    """What decoding an image will cost: pixels of the request's budget, and whether it goes with the usual ones."""

    pixels: int
    is_usual: bool


class Decoder:
    """Decodes the images of requests off the event loop. Requests take turns, image by image.

    Large images have threads of their own, which run behind all others, so that usual ones never wait for them.

    Args:
        threads: usual images decoded at the same time, over all requests, and as many large ones.
        max_image_bytes: largest image that is decoded, in bytes.
        max_image_pixels: largest image that is decoded, in pixels.
        max_request_pixels: most pixels of one request's images together, as `Plan.cost_pixels` counts them.
        fast: nearly exact pixels in a fraction of the time (docs/adr/0013).
    """

    def __init__(
        self,
        *,
        threads: int,
        max_image_bytes: int,
        max_image_pixels: int,
        max_request_pixels: int = MAX_REQUEST_PIXELS,
        fast: bool = False,
    ) -> None:
        self._usual = Turns(threads, "decode")
        self._large = Turns(threads, "decode-large", begin=yield_to_others)
        self._max_bytes = max_image_bytes
        self._max_pixels = max_image_pixels
        self._max_request_pixels = max_request_pixels
        self._plan = plan_fast if fast else _plan_exact
        self._resample = resample_fast if fast else resample_exactly

    async def decode(
        self,
        images: Sequence[bytes | KeepsightError],
        preprocessing: Preprocessing,
        *,
        names: Sequence[str] | None = None,
    ) -> list[Tensor | KeepsightError]:
        """Return the uint8 pixels [3, S, S] of every image, or its error, in order.

        An error among `images` (from invalid base64, for instance) is returned unchanged. What all images cost is
        known from their headers before the first is decoded. If the caller gives up, the rest is not decoded.

        Args:
            images: encoded images or errors.
            preprocessing: the model's.
            names: the images' names in errors; `image 0`, `image 1` by default.

        Raises:
            TooManyPixelsError: the images have more pixels together than one request may have.
        """
        look = partial(self._at_once if len(images) == 1 else self._look, preprocessing=preprocessing)
        slots: list[Tensor | KeepsightError | _Cost] = list(await self._usual.run(look, images))
        self._check_budget(slots, names)
        decode = partial(self._decode, preprocessing=preprocessing)

        async def fill(turns: Turns, *, usual: bool) -> None:
            places = [at for at, slot in enumerate(slots) if isinstance(slot, _Cost) and slot.is_usual == usual]
            for place, pixels in zip(places, await turns.run(decode, [images[at] for at in places]), strict=True):
                slots[place] = pixels

        await asyncio.gather(fill(self._usual, usual=True), fill(self._large, usual=False))
        return [slot for slot in slots if not isinstance(slot, _Cost)]

    def close(self) -> None:
        """End the threads when their work is done."""
        self._usual.close()
        self._large.close()

    def _look(self, image: bytes | KeepsightError, preprocessing: Preprocessing) -> _Cost | KeepsightError:
        plan = self._planned(image, preprocessing)
        return _Cost(plan.cost_pixels, plan.is_usual) if isinstance(plan, Plan) else plan

    def _at_once(self, image: bytes | KeepsightError, preprocessing: Preprocessing) -> Tensor | _Cost | KeepsightError:
        """Decode a usual image that comes alone, as most do, in the turn that looks at it."""
        plan = self._planned(image, preprocessing)
        if isinstance(plan, Plan) and not (plan.is_usual and plan.cost_pixels <= self._max_request_pixels):
            return _Cost(plan.cost_pixels, plan.is_usual)
        return self._pixels(plan, preprocessing)

    def _decode(self, image: bytes | KeepsightError, preprocessing: Preprocessing) -> Tensor | KeepsightError:
        return self._pixels(self._planned(image, preprocessing), preprocessing)

    def _planned(self, image: bytes | KeepsightError, preprocessing: Preprocessing) -> Plan | KeepsightError:
        if isinstance(image, KeepsightError):
            return image
        if len(image) > self._max_bytes:
            return ImageTooLargeError(f"the image has {len(image)} bytes; at most {self._max_bytes} are allowed")
        try:
            return self._plan(image, preprocessing, max_pixels=self._max_pixels)
        except ImageDecodeError as error:
            return error

    def _pixels(self, plan: Plan | KeepsightError, preprocessing: Preprocessing) -> Tensor | KeepsightError:
        if isinstance(plan, KeepsightError):
            return plan
        try:
            return pixels_of(plan, preprocessing, resample=self._resample)
        except ImageDecodeError as error:
            return error

    def _check_budget(self, slots: Sequence[object], names: Sequence[str] | None) -> None:
        total = 0
        for index, slot in enumerate(slots):
            total += slot.pixels if isinstance(slot, _Cost) else 0
            if total > self._max_request_pixels:
                name = names[index] if names else f"image {index}"
                raise TooManyPixelsError(
                    f"{name} brings the request to {total} pixels; at most {self._max_request_pixels} are allowed, of "
                    "which a JPEG that is decoded at a fraction of its size counts a quarter of its own"
                )


def _plan_exact(data: bytes, preprocessing: Preprocessing, *, max_pixels: int) -> Plan:
    return plan_decoding(data, max_pixels=max_pixels)

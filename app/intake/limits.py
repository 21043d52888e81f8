"""The limits of one upload, and the meters that hold it to them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from app.errors import ArchiveTooLargeError
from app.settings import MIB, Settings

RATIO_FREE_BYTES = 64 * MIB
"""An archive may always unpack to this much: small uploads of flat drawings compress better than any ratio allows."""

PIXELS_PER_BYTE = 50
"""Pixels that an upload may hold for each of its bytes, once past its free allowance.

Photos have 20 at most and usually 4; flat drawings have more, hence the allowance.
"""


@dataclass(frozen=True)
class IntakeLimits:
    """Limits of one upload. All sizes in bytes."""

    max_unpacked_bytes: int
    max_compression_ratio: float
    max_members: int
    max_image_bytes: int
    max_image_pixels: int
    max_classes: int
    max_upload_pixels: int = 250_000_000

    @classmethod
    def of(cls, settings: Settings) -> IntakeLimits:
        """Return the limits in the settings."""
        return cls(
            max_unpacked_bytes=settings.max_unpacked_bytes,
            max_compression_ratio=settings.max_compression_ratio,
            max_members=settings.max_archive_members,
            max_image_bytes=settings.max_image_bytes,
            max_image_pixels=settings.max_image_pixels,
            max_classes=settings.max_task_classes,
            max_upload_pixels=settings.max_upload_pixels,
        )

    def budget(self, archive_bytes: int) -> int:
        """Return the bytes that an archive of this size may unpack to."""
        by_ratio = max(RATIO_FREE_BYTES, int(archive_bytes * self.max_compression_ratio))
        return min(self.max_unpacked_bytes, by_ratio)

    def pixel_budget(self, archive_bytes: int) -> int:
        """Return the pixels that the images of an upload of this size may have together."""
        return max(self.max_upload_pixels, archive_bytes * PIXELS_PER_BYTE)


def always_wanted() -> None:
    """The check of an upload that nothing can end."""


class Meter:
    """Counts the bytes that come out of one archive, and asks whether they are still wanted.

    Args:
        budget: most bytes that may come out.
        check: raises if the upload's client is gone or its time is up; called for every piece.
    """

    def __init__(self, budget: int, check: Callable[[], None]) -> None:
        self._budget = budget
        self._check = check
        self._out = 0

    def count(self, size: int) -> None:
        """Count `size` bytes that came out.

        Raises:
            ArchiveTooLargeError: more came out than is allowed.
            AppError: the upload is no longer wanted.
        """
        self._check()
        self._out += size
        if self._out > self._budget:
            raise ArchiveTooLargeError(f"the archive unpacks to more than {self._budget} bytes")


class PixelMeter:
    """Counts the pixels of one upload's images.

    Args:
        archive_bytes: the upload's size.
        limits: says how many pixels it may have.
    """

    def __init__(self, archive_bytes: int, limits: IntakeLimits) -> None:
        self._archive_bytes = archive_bytes
        self._budget = limits.pixel_budget(archive_bytes)
        self._pixels = 0

    def count(self, pixels: int) -> None:
        """Count pixels that are about to be decoded, or have been.

        Raises:
            ArchiveTooLargeError: they are more than the upload may have.
        """
        self._pixels += pixels
        if self._pixels > self._budget:
            raise ArchiveTooLargeError(
                f"the images have more than {self._budget} pixels together, which is the most for an upload of "
                f"{self._archive_bytes} bytes; send it in parts"
            )

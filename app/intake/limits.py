"""The limits of one upload."""

from __future__ import annotations

from dataclasses import dataclass

from app.settings import MIB, Settings

RATIO_FREE_BYTES = 64 * MIB
"""An archive may always unpack to this much: small uploads of flat drawings compress better than any ratio allows."""


@dataclass(frozen=True)
class IntakeLimits:
    """Limits of one upload. All sizes in bytes."""

    max_unpacked_bytes: int
    max_compression_ratio: float
    max_members: int
    max_image_bytes: int
    max_image_pixels: int
    max_classes: int

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
        )

    def budget(self, archive_bytes: int) -> int:
        """Return the bytes that an archive of this size may unpack to."""
        by_ratio = max(RATIO_FREE_BYTES, int(archive_bytes * self.max_compression_ratio))
        return min(self.max_unpacked_bytes, by_ratio)

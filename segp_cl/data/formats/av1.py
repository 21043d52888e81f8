"""The sizes that AV1 data is coded in (AV1 Bitstream & Decoding Process Specification, 5.3 to 5.5)."""

from __future__ import annotations

from collections.abc import Iterator

MOST_OBUS = 4096
_SEQUENCE_HEADER = 1


def coded_sizes(data: bytes) -> Iterator[tuple[int, int]]:
    """Yield the largest width and height of every sequence header. A frame has no more, unless it is refused."""
    at = 0
    for _ in range(MOST_OBUS):
        if at >= len(data):
            return
        head = data[at]
        at += 2 if head & 0x04 else 1
        size = len(data) - at
        if head & 0x02:
            size, at = _leb128(data, at)
        if head >> 3 & 15 == _SEQUENCE_HEADER:
            yield _sequence_size(data[at : at + min(size, 256)])
        at += size


def _leb128(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for index, byte in enumerate(data[at : at + 8]):
        value |= (byte & 0x7F) << 7 * index
        if not byte & 0x80:
            return value, at + index + 1
    return value, at + 8


class _Bits:
    def __init__(self, data: bytes) -> None:
        self._value, self._left = int.from_bytes(data, "big"), 8 * len(data)

    def take(self, count: int) -> int:
        self._left = max(0, self._left - count)
        return self._value >> self._left & (1 << count) - 1

    def take_uvlc(self) -> int:
        zeros = 0
        while self._left and not self.take(1):
            zeros += 1
        return (1 << zeros) - 1 + self.take(zeros) if zeros < 32 else (1 << 32) - 1


def _sequence_size(data: bytes) -> tuple[int, int]:
    bits = _Bits(data)
    bits.take(4)  # profile, still picture
    if bits.take(1):  # reduced header
        bits.take(5)
    else:
        _skip_operating_points(bits)
    width_bits, height_bits = bits.take(4) + 1, bits.take(4) + 1
    return bits.take(width_bits) + 1, bits.take(height_bits) + 1


def _skip_operating_points(bits: _Bits) -> None:
    models, delay_bits = 0, 0
    if bits.take(1):  # timing information
        bits.take(32)
        bits.take(32)
        if bits.take(1):
            bits.take_uvlc()
        models = bits.take(1)
        if models:
            delay_bits = bits.take(5) + 1
            bits.take(32)
            bits.take(10)
    delays = bits.take(1)
    for _ in range(bits.take(5) + 1):
        bits.take(12)
        if bits.take(5) > 7:
            bits.take(1)
        if models and bits.take(1):
            bits.take(2 * delay_bits + 1)
        if delays and bits.take(1):
            bits.take(4)

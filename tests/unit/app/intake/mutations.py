"""Changes to valid files of the kinds that damage and malice make."""

from __future__ import annotations

import random
import struct

_NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF)


def mutate(data: bytes, other: bytes, noise: random.Random) -> bytes:
    """Return `data` with one to four changes: bits flipped, a part cut, repeated, or put in from `other`, a number."""
    changed = bytearray(data)
    for _ in range(noise.randrange(1, 5)):
        if not changed:
            break
        at = noise.randrange(len(changed))
        size = noise.choice((1, 2, 4, 16, 64, 600))
        kind = noise.randrange(6)
        if kind == 0:
            changed[at] ^= 1 << noise.randrange(8)
        elif kind == 1:
            del changed[at : at + size]
        elif kind == 2:
            changed[at:at] = changed[at : at + size] * noise.randrange(1, 4)
        elif kind == 3:
            begin = noise.randrange(max(1, len(other)))
            changed[at : at + size] = other[begin : begin + size]
        elif kind == 4:
            number = struct.pack("<L", noise.choice(_NUMBERS))[: noise.choice((1, 2, 4))]
            changed[at : at + len(number)] = number
        else:
            del changed[at:]
    return bytes(changed)

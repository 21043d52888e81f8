"""Ids of answers: short texts that say which version answered what to which image, so that nothing must be kept of it.

Any server reads an id that another has given out. It has no secret and proves nothing: a correction may say what was
answered in plain words as well. Its check digits find ids that were cut or mistyped, and its digest those of other
images.
"""

from __future__ import annotations

import base64
import binascii
import struct
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from app.errors import InvalidRequestError
from model_store import policy
from model_store.types import VersionId

_FORMAT: Final = 1
_HEAD: Final = struct.Struct(">BQ6s8sf")  # format, version's number and digest, the image's digest, probability
_CHECK_BYTES: Final = 4
MAX_LENGTH: Final = 2000
"""Characters of an id at most; a label has up to 1,000 bytes."""


@dataclass(frozen=True)
class AnswerId:
    """What an id says: the version, the best label and its probability, and the image's digest."""

    version_id: VersionId
    label: str
    probability: float
    image_digest: bytes

    def check_image(self, image: bytes) -> None:
        """Check that an image is the one that was answered.

        Raises:
            InvalidRequestError: it is another one.
        """
        if _digest(image) != self.image_digest:
            raise InvalidRequestError("answer_id: it is the id of the answer to another image")


def answer_id(version_id: VersionId, image: bytes, label: str, probability: float) -> str:
    """Return the id of an answer."""
    digest = bytes.fromhex(version_id.partition("-")[2])
    head = _HEAD.pack(_FORMAT, policy.number_of(version_id), digest, _digest(image), probability)
    said = head + label.encode()
    return base64.urlsafe_b64encode(said + _check(said)).decode().rstrip("=")


def read_answer_id(text: str) -> AnswerId:
    """Return what an id says.

    Raises:
        InvalidRequestError: it is no id.
    """
    try:
        data = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        said, check = data[:-_CHECK_BYTES], data[-_CHECK_BYTES:]
        if check != _check(said):
            raise ValueError("the check digits differ")
        kind, number, digest, image, probability = _HEAD.unpack_from(said)
        if kind != _FORMAT:
            raise ValueError(f"the format is {kind}")
        label = said[_HEAD.size :].decode()
        if not (0 <= probability <= 1 and label):  # anybody can make check digits
            raise ValueError(f"the label {label[:40]!r} has the probability {probability}")
        return AnswerId(policy.version_id_of(number, digest.hex()), label, round(probability, 6), image)
    except (ValueError, struct.error, binascii.Error) as error:
        raise InvalidRequestError(
            f"answer_id: expected the id of an answer of /v1/classify, got {text[:40]!r}"
        ) from error


def _digest(image: bytes) -> bytes:
    return sha256(image).digest()[:8]


def _check(said: bytes) -> bytes:
    return sha256(said).digest()[:_CHECK_BYTES]

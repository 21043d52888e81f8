from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from PIL import Image

from app.intake.limits import IntakeLimits
from tests.unit.app.house import House

Members = Mapping[str, bytes]


@pytest.fixture
def png() -> Callable[[int], bytes]:
    """A small picture for every number."""

    def make(number: int) -> bytes:
        buffer = io.BytesIO()
        Image.new("RGB", (8, 8), (number % 256, number // 256 % 256, 7)).save(buffer, "PNG")
        return buffer.getvalue()

    return make


@pytest.fixture
def make_zip() -> Callable[[Members], bytes]:
    def make(members: Members) -> bytes:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            for path, data in members.items():
                archive.writestr(zipfile.ZipInfo(path), data, zipfile.ZIP_DEFLATED)
        return buffer.getvalue()

    return make


@pytest.fixture
def make_tar() -> Callable[[Members], bytes]:
    def make(members: Members) -> bytes:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            for path, data in members.items():
                info = tarfile.TarInfo(path.rstrip("/"))
                info.type = tarfile.DIRTYPE if path.endswith("/") else tarfile.REGTYPE
                info.size = 0 if path.endswith("/") else len(data)
                archive.addfile(info, io.BytesIO(data))
        return buffer.getvalue()

    return make


@pytest.fixture
def limits() -> IntakeLimits:
    return IntakeLimits(
        max_unpacked_bytes=10_000_000,
        max_compression_ratio=200,
        max_members=1000,
        max_image_bytes=1_000_000,
        max_image_pixels=1_000_000,
        max_classes=100,
    )


@pytest.fixture
def house(tmp_path: Path, redis_url: str) -> Iterator[House]:
    """A store and one server of it."""
    house = House(tmp_path, redis_url)
    yield house
    house.close()


@pytest.fixture
def house_alone(tmp_path: Path) -> Iterator[House]:
    """The same where Redis is gone."""
    house = House(tmp_path, "redis://127.0.0.1:1/0")
    yield house
    house.close()

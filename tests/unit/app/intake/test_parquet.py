from __future__ import annotations

import contextlib
import io
import json
import os
import tempfile
import threading
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from app.errors import ArchiveError, ArchiveTooLargeError
from app.intake.limits import IntakeLimits
from app.intake.parquet import ParquetSource
from app.intake.source import Item


@dataclass
class Read:
    labels: tuple[str, ...]
    found: list[Item]

    def items(self) -> list[Item]:
        return self.found


def table(images: list[Any], labels: list[Any], *, names: list[str] | None = None, **types: pa.DataType) -> bytes:
    columns = {
        "image": pa.array(images, types.get("image")),
        "label": pa.array(labels, types.get("label")),
        "id": pa.array(range(len(images))),
    }
    made = pa.table(columns)
    if names is not None:
        features = {"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}}
        made = made.replace_schema_metadata({"huggingface": json.dumps(features)})
    buffer = io.BytesIO()
    pq.write_table(made, buffer)
    return buffer.getvalue()


def source(data: bytes, limits: IntakeLimits) -> Read:
    """Read a whole table: its classes and its items."""
    with tempfile.TemporaryFile() as file:
        file.write(data)
        with contextlib.closing(ParquetSource(file, len(data), limits)) as opened:
            return Read(opened.labels, list(opened.items()))


def test_binary_images_and_text_labels(limits: IntakeLimits) -> None:
    read = source(table([b"one", b"two"], ["dog", "cat"]), limits)
    assert read.labels == ("cat", "dog")
    assert [(i.where, i.label, i.data) for i in read.items()] == [("row 1", "dog", b"one"), ("row 2", "cat", b"two")]


def test_hugging_face_structs_and_named_integers(limits: IntakeLimits) -> None:
    images = [{"bytes": b"one", "path": "a.png"}, {"bytes": b"two", "path": None}]
    read = source(table(images, [1, 0], names=["cat", "dog"]), limits)
    assert read.labels == ("cat", "dog")
    assert [(i.label, i.data) for i in read.items()] == [("dog", b"one"), ("cat", b"two")]


def test_plain_integers_become_their_digits_in_numerical_order(limits: IntakeLimits) -> None:
    assert source(table([b"a"] * 3, [10, 9, 2]), limits).labels == ("2", "9", "10")


def test_a_row_without_label_or_bytes_is_rejected_alone(limits: IntakeLimits) -> None:
    read = source(table([b"a", None, b"c"], ["x", "x", None]), limits)
    reasons = [i.reason for i in read.items()]
    assert reasons == [None, "no image bytes; paths are not followed", "no label"]


def test_many_rows_stream_through(limits: IntakeLimits) -> None:
    read = source(table([bytes([i % 256]) * 10 for i in range(500)], [str(i % 3) for i in range(500)]), limits)
    assert sum(i.data is not None for i in read.items()) == 500


def test_an_image_over_the_limit_is_rejected_alone(limits: IntakeLimits) -> None:
    items = source(table([b"a" * 11, b"b"], ["x", "x"]), replace(limits, max_image_bytes=10)).items()
    assert "11 bytes" in str(items[0].reason)
    assert items[1].data == b"b"


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (table([1, 2], ["a", "b"]), "image.*int64"),
        (table([b"a"], [0.5]), "label.*double"),
        (table([{"path": "x"}], ["a"]), "image.*struct"),
        (b"PAR1" + b"x" * 100 + b"PAR1", "damaged"),
        (table([b"a"] * 100, ["x"] * 100)[:-200], "damaged"),
    ],
)
def test_tables_of_another_shape_are_refused(limits: IntakeLimits, data: bytes, said: str) -> None:
    with pytest.raises(ArchiveError, match=said):
        source(data, limits)


def test_a_missing_column_is_named(limits: IntakeLimits) -> None:
    buffer = io.BytesIO()
    pq.write_table(pa.table({"img": [b"a"], "label": ["x"]}), buffer)
    with pytest.raises(ArchiveError, match=r"no column 'image'.*found img, label"):
        source(buffer.getvalue(), limits)


def test_a_label_without_a_name_is_refused(limits: IntakeLimits) -> None:
    with pytest.raises(ArchiveError, match="label 2 has no name"):
        source(table([b"a"], [2], names=["cat", "dog"]), limits)


@pytest.mark.parametrize("changed", [{"max_members": 1}, {"max_unpacked_bytes": 100}, {"max_classes": 1}])
def test_tables_over_the_limits_are_refused(limits: IntakeLimits, changed: dict[str, int]) -> None:
    data = table([bytes(range(200)), bytes(range(1, 201))], ["x", "y"])
    with pytest.raises(ArchiveTooLargeError):
        source(data, replace(limits, **changed))


def test_its_process_has_low_priority_and_the_thread_that_waits_for_it_keeps_its_own(limits: IntakeLimits) -> None:
    before = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    data = table([b"a"], ["cat"])
    with tempfile.TemporaryFile() as file:
        file.write(data)
        with contextlib.closing(ParquetSource(file, len(data), limits)) as opened:
            assert os.getpriority(os.PRIO_PROCESS, opened._reader._process.pid) == 10
            assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) == before

"""Reads parquet files with the columns `image` and `label`, as Hugging Face ships data sets."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from app.errors import ArchiveError, ArchiveTooLargeError
from app.intake.limits import IntakeLimits
from app.intake.source import Item
from exchange.contracts import PassedOver

_BATCH_ROWS = 16
_PARQUET_ERRORS = (pa.ArrowException, OSError, ValueError)


class ParquetSource:
    """A table of images: `image` is binary or a struct with `bytes`, `label` is text or an integer.

    Integers become the names that the file's Hugging Face schema gives them, else their decimal digits.

    Raises:
        ArchiveError: it is damaged, lacks one of the columns, or has them with other types.
        ArchiveTooLargeError: it has more rows or more unpacked bytes than allowed.
    """

    held_out_labels: tuple[str, ...] = ()
    passed_over: tuple[PassedOver, ...] = ()
    passed_over_count = 0
    notes: tuple[str, ...] = ()

    def __init__(self, file: BinaryIO, archive_bytes: int, limits: IntakeLimits) -> None:
        self._limits = limits
        self._budget = limits.budget(archive_bytes)
        file.seek(0)
        try:
            self._file = pq.ParquetFile(file)
            metadata = self._file.metadata
            unpacked = sum(metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups))
            if metadata.num_rows > limits.max_members:
                raise ArchiveTooLargeError(f"the table has {metadata.num_rows} rows; at most {limits.max_members}")
            if unpacked > self._budget:
                raise ArchiveTooLargeError(f"the table unpacks to {unpacked} bytes; at most {self._budget} are allowed")
            schema = self._file.schema_arrow
            self._check_columns(schema)
            self._names = _class_names(schema.metadata or {})
            self.labels = self._read_labels()
        except _PARQUET_ERRORS as error:
            raise ArchiveError(f"the parquet file is damaged: {error}") from error

    def items(self) -> Iterator[Item]:
        row = 0
        unpacked = 0
        try:
            for batch in self._batches(["image", "label"]):
                for image, label in zip(batch.column("image"), batch.column("label"), strict=True):
                    row += 1
                    item = self._item(f"row {row}", image.as_py(), label.as_py())
                    unpacked += len(item.data or b"")
                    if unpacked > self._budget:
                        raise ArchiveTooLargeError(f"the table unpacks to more than {self._budget} bytes")
                    yield item
        except _PARQUET_ERRORS as error:
            raise ArchiveError(f"the parquet file is damaged after row {row}: {error}") from error

    def _item(self, where: str, image: Any, label: Any) -> Item:
        data = image.get("bytes") if isinstance(image, dict) else image
        if label is None:
            return Item(where, None, None, "no label")
        name = self._name(label)
        if data is None:
            return Item(where, name, None, "no image bytes; paths are not followed")
        if len(data) > self._limits.max_image_bytes:
            reason = f"{len(data)} bytes; at most {self._limits.max_image_bytes} per image are allowed"
            return Item(where, name, None, reason)
        return Item(where, name, bytes(data))

    def _name(self, label: str | int) -> str:
        if isinstance(label, str):
            return label
        if not self._names:
            return str(label)
        if not 0 <= label < len(self._names):
            raise ArchiveError(f"the label {label} has no name; the file's schema names 0 to {len(self._names) - 1}")
        return self._names[label]

    def _read_labels(self) -> tuple[str, ...]:
        found: set[Any] = set()
        for batch in self._batches(["label"]):
            found.update(value for value in batch.column("label").unique().to_pylist() if value is not None)
            if len(found) > self._limits.max_classes:
                raise ArchiveTooLargeError(f"the table has more than {self._limits.max_classes} classes")
        return tuple(self._name(label) for label in sorted(found))

    def _batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        batches: Iterator[pa.RecordBatch] = self._file.iter_batches(
            _BATCH_ROWS, columns=list(columns), use_threads=False
        )
        return batches

    @staticmethod
    def _check_columns(schema: pa.Schema) -> None:
        for name in ("image", "label"):
            if name not in schema.names:
                found = ", ".join(schema.names[:10])
                raise ArchiveError(f"the table has no column {name!r}; expected image and label, found {found}")
        image, label = schema.field("image").type, schema.field("label").type
        if pa.types.is_dictionary(label):
            label = label.value_type
        if pa.types.is_struct(image) and image.get_field_index("bytes") >= 0:
            image = image.field("bytes").type
        if not (pa.types.is_binary(image) or pa.types.is_large_binary(image)):
            raise ArchiveError(f"the column 'image' has type {image}; expected binary or a struct with 'bytes'")
        if not (pa.types.is_string(label) or pa.types.is_large_string(label) or pa.types.is_integer(label)):
            raise ArchiveError(f"the column 'label' has type {label}; expected text or an integer")


def _class_names(metadata: dict[bytes, bytes]) -> tuple[str, ...]:
    """Return the names that Hugging Face's schema metadata gives the `label` integers; empty if it has none."""
    try:
        document = json.loads(metadata.get(b"huggingface", b"{}"))
        names = document["info"]["features"]["label"]["names"]
    except (ValueError, LookupError, TypeError):
        return ()
    return tuple(str(name) for name in names) if isinstance(names, list) else ()

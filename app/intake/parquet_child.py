"""The process that reads one parquet file: `python -P -m app.intake.parquet_child DESCRIPTOR LIMITS`.

The library allocates what a file's footer and pages ask for, so it runs here under a memory limit. The process writes
one line of JSON for each thing it finds; a line that has `size` is followed by an image of so many bytes.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, Final

import pyarrow as pa
import pyarrow.parquet as pq

_CPU_S: Final = 3600  # the server ends the process much sooner; this is for one that has lost its server
_MAX_REASON_CHARS: Final = 500
_BUFFER_BYTES: Final = 256 * 1024
_LABEL_ROWS: Final = 256
_THRIFT_BYTES: Final = 16 * 1024 * 1024
_THRIFT_ITEMS: Final = 1_000_000


@dataclass(frozen=True)
class Limits:
    """What the server allows. `memory_bytes` is what the process may allocate beside the loaded libraries."""

    memory_bytes: int
    max_rows: int
    max_classes: int
    max_label_chars: int
    max_image_bytes: int
    max_unpacked_bytes: int


class RefusedError(Exception):
    """The table is refused. `too_large` tells what is over a limit from what is wrong."""

    def __init__(self, message: str, *, too_large: bool = False) -> None:
        super().__init__(message)
        self.too_large = too_large


class Table:
    """An open table. `image` is binary or a struct with `bytes`, `label` is text or an integer."""

    def __init__(self, path: str, limits: Limits) -> None:
        self._file = pq.ParquetFile(
            path,
            buffer_size=_BUFFER_BYTES,
            thrift_string_size_limit=_THRIFT_BYTES,
            thrift_container_size_limit=_THRIFT_ITEMS,
        )
        metadata = self._file.metadata
        rows = metadata.num_rows
        if rows > limits.max_rows:
            raise RefusedError(f"the table has {rows} rows; at most {limits.max_rows}", too_large=True)
        unpacked = sum(metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups))
        if unpacked > limits.max_unpacked_bytes:
            most = limits.max_unpacked_bytes
            raise RefusedError(f"the table unpacks to {unpacked} bytes; at most {most} are allowed", too_large=True)
        schema = self._file.schema_arrow
        self._columns = _columns(schema)
        self._names = _class_names(schema.metadata or {})
        self._limits = limits

    def labels(self) -> list[str]:
        """Return the classes, in the order of the integers or of the text."""
        found: set[Any] = set()
        for batch in self._batches(_LABEL_ROWS, ["label"]):
            found.update(value for value in batch.column("label").unique().to_pylist() if value is not None)
            if len(found) > self._limits.max_classes:
                raise RefusedError(f"the table has more than {self._limits.max_classes} classes", too_large=True)
        return [self._name(label) for label in sorted(found)]

    def rows(self) -> Iterator[tuple[str | None, pa.Buffer | None]]:
        """Yield the label and the image's bytes of every row."""
        count = 0
        for batch in self._batches(1, self._columns):
            for image, label in zip(batch.column("image"), batch.column("label"), strict=True):
                count += 1
                if count > self._limits.max_rows:
                    raise RefusedError(f"the table has more than {self._limits.max_rows} rows", too_large=True)
                name = None if not label.is_valid else self._name(label.as_py())
                if not image.is_valid:
                    yield name, None
                else:
                    yield name, (image["bytes"] if pa.types.is_struct(image.type) else image).as_buffer()

    def _batches(self, rows: int, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        batches: Iterator[pa.RecordBatch] = self._file.iter_batches(rows, columns=list(columns), use_threads=False)
        return batches

    def _name(self, label: str | int) -> str:
        if isinstance(label, str):
            name = label
        elif not self._names:
            return str(label)
        elif not 0 <= label < len(self._names):
            raise RefusedError(f"the label {label} has no name; the file's schema names 0 to {len(self._names) - 1}")
        else:
            name = self._names[label]
        most = self._limits.max_label_chars
        if len(name) > most:
            raise RefusedError(
                f"the label that begins {name[:40]!a} has {len(name)} characters; expected at most {most}"
            )
        return name


def _columns(schema: pa.Schema) -> list[str]:
    for name in ("image", "label"):
        if schema.names.count(name) != 1:
            found = ", ".join(name[:100] for name in schema.names[:10])
            raise RefusedError(f"the table has no column {name!r}; expected image and label, found {found}")
    image, label = schema.field("image").type, schema.field("label").type
    column = "image"
    if pa.types.is_dictionary(label):
        label = label.value_type
    if pa.types.is_struct(image) and image.get_field_index("bytes") >= 0:
        image, column = image.field("bytes").type, "image.bytes"  # paths beside them are not followed
    if not (pa.types.is_binary(image) or pa.types.is_large_binary(image)):
        raise RefusedError(f"the column 'image' has type {image}; expected binary or a struct with 'bytes'")
    if not (pa.types.is_string(label) or pa.types.is_large_string(label) or pa.types.is_integer(label)):
        raise RefusedError(f"the column 'label' has type {label}; expected text or an integer")
    return [column, "label"]


def _class_names(metadata: dict[bytes, bytes]) -> tuple[str, ...]:
    """Return the names that Hugging Face's schema metadata gives the `label` integers; empty if it has none."""
    try:
        document = json.loads(metadata.get(b"huggingface", b"{}"))
        names = document["info"]["features"]["label"]["names"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return ()
    return tuple(str(name) for name in names) if isinstance(names, list) else ()


def _send(out: BinaryIO, **said: Any) -> None:
    out.write(json.dumps(said).encode() + b"\n")


def _read(out: BinaryIO, path: str, limits: Limits) -> None:
    table = Table(path, limits)
    _send(out, labels=table.labels())
    out.flush()
    for label, data in table.rows():
        if data is None:
            _send(out, label=label, missing=True)
        elif len(data) > limits.max_image_bytes:
            _send(out, label=label, too_large=len(data))
        else:
            _send(out, label=label, size=len(data))
            out.write(data)
    _send(out, end=True)


def _limit_memory(more: int) -> None:
    """Limit what this process allocates from now on, in bytes."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (_CPU_S, _CPU_S))
    held = 0
    with contextlib.suppress(OSError), open("/proc/self/statm", encoding="ascii") as file:
        held = int(file.read().split()[5]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_DATA, (held + more, held + more))


def main(descriptor: str, limits: str) -> None:
    """Read the table in the open file with this number, and write what it holds to standard output."""
    allowed = Limits(**json.loads(limits))
    _limit_memory(allowed.memory_bytes)
    out = sys.stdout.buffer
    _send(out, ready=True)
    try:
        _read(out, f"/dev/fd/{descriptor}", allowed)
    except BrokenPipeError:
        os._exit(1)  # nobody wants the rest
    except RefusedError as error:
        _send(out, refused=str(error)[:_MAX_REASON_CHARS], too_large=error.too_large)
    except MemoryError:  # pyarrow's own is one of these
        _send(out, refused="memory", too_large=True)
    except Exception as error:  # whatever hostile bytes raise in the library means the same
        what = str(error)[:_MAX_REASON_CHARS] or type(error).__name__
        _send(out, refused=f"the parquet file is damaged: {what}", too_large=False)
    out.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])

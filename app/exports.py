"""Makes files of versions for use elsewhere: as they are, or as ONNX models, which a process of its own makes."""

from __future__ import annotations

import json
import os
import select
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO, Final, Literal

from fastapi.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from app import spawner
from app.errors import SpoolFullError
from app.intake.keeping import keeping
from app.settings import Settings
from exchange.spool import Spool
from model_store.store import Store
from model_store.types import StoreError, VersionId
from segp_cl.errors import IncompatibleStateError, KeepsightError, ModelLoadError
from segp_cl.runtime.classifier import NoClassesError
from segp_cl.runtime.export import ExportError, ExportUnavailableError, check_installed
from segp_cl.runtime.golden import GoldenAnswersError

Format = Literal["safetensors", "onnx"]
COMMAND: Final = (sys.executable, "-P", "-m", "app.export_child")
"""A new interpreter, not a fork of one with threads. -P: a folder `app` in the working directory is somebody else's."""
DIFFERENCE_HEADER: Final = "Keepsight-Difference"

_LOOK_S: Final = 0.1
_PIECE_BYTES: Final = 256 * 1024
ERRORS: Final[Mapping[str, type[KeepsightError]]] = {
    kind.__name__: kind
    for kind in (
        ExportError,
        ExportUnavailableError,
        GoldenAnswersError,
        IncompatibleStateError,
        ModelLoadError,
        NoClassesError,
        SpoolFullError,
        StoreError,
    )
}


@dataclass(frozen=True)
class Export:
    """A file without a name, which is gone once it is closed. `difference` is that of an ONNX model's answers."""

    file: BinaryIO
    size: int
    filename: str
    difference: float | None = None

    def response(self) -> Response:
        """Return the answer that sends the file."""
        return _SentFile(self)

    @property
    def headers(self) -> dict[str, str]:
        """The headers of the answer."""
        headers = {
            "Content-Length": str(self.size),
            "Content-Disposition": f'attachment; filename="{self.filename}"',
        }
        return headers if self.difference is None else {**headers, DIFFERENCE_HEADER: f"{self.difference:.3g}"}

    def pieces(self) -> Iterator[bytes]:
        """Yield the content."""
        self.file.seek(0)
        while piece := self.file.read(_PIECE_BYTES):
            yield piece


class _SentFile(StreamingResponse):
    """Sends an export, and closes its file also if nobody waits for it any more."""

    def __init__(self, export: Export) -> None:
        super().__init__(export.pieces(), media_type="application/octet-stream", headers=export.headers)
        self._file = export.file

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._file.close()


def make_export(
    version_id: VersionId, form: Format, *, store: Store, spool: Spool, settings: Settings, check: Callable[[], None]
) -> Export:
    """Write a version to an unnamed file in the spool, so that even a killed server leaves nothing of it.

    Args:
        version_id: the version.
        form: `safetensors`: the version as it is; `onnx`: a model that gives its answers.
        store: the store.
        spool: where the file lies.
        settings: the server's.
        check: raises when the file is not wanted any more. It is called often.

    Raises:
        VersionNotFoundError: there is no such version.
        CorruptVersionError: a byte is not what was published.
        ExportUnavailableError: what ONNX needs is not installed.
        NoClassesError: the version has no classes, so there are no answers.
        IncompatibleStateError: it belongs to another base model than this server's.
        GoldenAnswersError: it does not answer as when it was published.
        ExportError: it cannot be exported, or the export answers otherwise.
        SpoolFullError: there is no room for the file.
    """
    if form == "onnx":
        check_installed()
        store.verify(version_id)
    with keeping():
        file: BinaryIO = tempfile.TemporaryFile(dir=spool.root)  # noqa: SIM115 - open for as long as it is sent
        try:
            if form == "safetensors":
                file.write(store.in_one_file(version_id))
                file.flush()
                return Export(file, file.tell(), f"{version_id}.safetensors")
            said = _ask(file, version_id, settings, check)
        except BaseException:
            file.close()
            raise
    return Export(file, said["size"], f"{version_id}.onnx", said["difference"])


def _ask(file: BinaryIO, version_id: VersionId, settings: Settings, check: Callable[[], None]) -> dict[str, Any]:
    """Have a process write a version to a file, and return what it says about it."""
    order = {
        "store": str(settings.store.absolute()),
        "version_id": version_id,
        "model": settings.model,
        "pretrained": settings.pretrained,
        "memory_bytes": settings.max_export_bytes,
    }
    answer = bytearray()
    with spawner.start(
        [*COMMAND, str(file.fileno()), json.dumps(order)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        pass_fds=[file.fileno()],
        stdin=True,  # it ends itself when this is closed, as it is when the server dies
    ) as process:
        said_more = select.poll()
        said_more.register(process.stdout, select.POLLIN)
        while True:
            check()
            if said_more.poll(1000 * _LOOK_S):
                piece = process.stdout.read(_PIECE_BYTES)
                if not piece:
                    break
                answer += piece
        status = process.wait()
    try:
        said: dict[str, Any] = json.loads(answer)
    except ValueError:
        limit = settings.max_export_bytes // 1024**2
        raise ExportError(
            f"the process that exports ended with status {status}; it may have needed more than the "
            f"{limit} MiB of memory that KEEPSIGHT_MAX_EXPORT_BYTES allows"
        ) from None
    if "error" in said:
        raise ERRORS.get(said["error"], ExportError)(said["message"])
    return said

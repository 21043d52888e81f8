"""Describes every call of the REST API: what is sent, how long it may take, how the answer is read. Sends nothing.

`Client` and `AsyncClient` send what these functions describe.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar
from urllib.parse import quote, urlencode

import httpx

from keepsight.client.api import (
    Accepted,
    Classes,
    Classification,
    Comparison,
    Contributions,
    Correction,
    Corrections,
    CorrectionsAccepted,
    CorrectionsRemoved,
    EditAccepted,
    EditKind,
    EditPreview,
    Embeddings,
    EvaluateAccepted,
    Gate,
    Job,
    Manifest,
    MergeAccepted,
    Moved,
    PathName,
    Pinned,
    Pruned,
    PutTestSet,
    RemovedTestSet,
    Report,
    Rollout,
    SetEvaluation,
    StoredTestSetDetails,
    StoredTestSets,
    Verified,
    VersionClasses,
    Versions,
    ZeroShot,
)
from keepsight.client.downloads import ExportFormat
from keepsight.client.errors import ApiError, ServiceUnreachableError
from keepsight.client.images import NamedImage
from keepsight.client.problems import api_error
from keepsight.client.uploads import Archive, with_skipped

DEFAULT_URL = "http://127.0.0.1:8000"
CONNECT_TIMEOUT_S = 5.0
PROBE_TIMEOUT_S = 5.0
SWAP_TIMEOUT_S = 120.0
EXPORT_TIMEOUT_S = 900.0  # the model is traced and compared before the first byte is sent
UPKEEP_TIMEOUT_S = 300.0  # the store's lock is waited for, and gigabytes are read
INTAKE_TIMEOUT_S = 900.0  # the server answers an upload after it has unpacked and checked every image

T = TypeVar("T")


def _unchanged(document: Any) -> Any:
    return document


@dataclass(frozen=True)
class Call(Generic[T]):
    """One request, and how to read its answer.

    Attributes:
        method: GET, POST, PUT, PATCH or DELETE.
        route: Path, with identifiers escaped.
        body: What httpx is to send: `params`, and `json` or `data` and `files`.
        headers: Besides those of every request.
        timeout_s: The longest wait for the service; None: the client's.
        reads_file: Whether the body is read from a file while it is sent.
        read: Converts the answer's JSON object to what the caller gets.
    """

    method: str
    route: str
    body: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    timeout_s: float | None = None
    reads_file: bool = False
    read: Callable[[Any], T] = _unchanged

    def __str__(self) -> str:
        return f"{self.method} {self.route}"

    def request(self, build: Callable[..., httpx.Request]) -> httpx.Request:
        """Build a request with a client's `build_request`. A file in it will be read from its start."""
        options: dict[str, Any] = {**self.body, "headers": self.headers}
        if self.timeout_s is not None:
            options["timeout"] = httpx.Timeout(self.timeout_s, connect=CONNECT_TIMEOUT_S)
        return build(self.method, self.route, **options)

    def answer(self, response: httpx.Response) -> T:
        """Return what the response holds.

        Raises:
            ApiError: it reports an error, or is not a JSON object.
        """
        if not response.is_success:
            raise api_error(response)
        try:
            document = response.json()
        except ValueError as error:
            raise ApiError(response.status_code, f"{response.url} did not answer with JSON") from error
        if not isinstance(document, dict):
            raise ApiError(response.status_code, f"{response.url} sent a {type(document).__name__}; expected an object")
        return self.read(document)


def connection(url: str, api_key: str | None, timeout_s: float) -> dict[str, Any]:
    """Return the arguments for either of httpx' clients.

    Raises:
        ServiceUnreachableError: `url` is not an address.
    """
    try:
        base_url = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise ServiceUnreachableError(f"{url!r} is not an address: {error}") from error
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    return {"base_url": base_url, "headers": headers, "timeout": httpx.Timeout(timeout_s, connect=CONNECT_TIMEOUT_S)}


def ready() -> Call[object]:
    return Call("GET", "/readyz", timeout_s=PROBE_TIMEOUT_S)


def classify(
    images: Sequence[NamedImage],
    *,
    top_k: int,
    path: PathName,
    labels: Sequence[str],
    template: str | None,
    with_classes: bool,
    zero_shot: ZeroShot | None,
    set_coverage: float | None,
    known_share: float | None,
    version: str | None,
    timeout_ms: int | None,
) -> Call[Classification]:
    form: dict[str, Any] = {"top_k": str(top_k), "path": path}
    if labels:
        form["labels"] = list(labels)
    if template is not None:
        form["template"] = template
    if with_classes:
        form["with_classes"] = "true"
    if zero_shot is not None:
        form["zero_shot"] = zero_shot
    if version is not None:
        form["version"] = version
    for option, value in (("set_coverage", set_coverage), ("known_share", known_share), ("timeout_ms", timeout_ms)):
        if value is not None:
            form[option] = str(value)
    files = [("images", (name, data, "application/octet-stream")) for name, data in images]
    return Call("POST", "/v1/classify", body={"data": form, "files": files})


def embeddings(inputs: list[str], *, stored_version: str | None, timeout_ms: int | None) -> Call[Embeddings]:
    body: dict[str, Any] = {"input": inputs}
    if stored_version is not None:
        body["stored_version"] = stored_version
    if timeout_ms is not None:
        body["timeout_ms"] = timeout_ms
    return Call("POST", "/v1/embeddings", body={"json": body})


def teach(
    archive: Archive,
    filename: str,
    *,
    name: str,
    template: str | None,
    extend: bool,
    config: Mapping[str, object] | None,
    seed: int | None,
    encoding: str | None,
    instant: bool,
    dry_run: bool,
    parent: str | None,
    test_set: str | None,
) -> Call[Accepted]:
    """Describe an upload.

    Raises:
        ValueError: the archive cannot be read again from its start, which a second attempt needs.
    """
    form: dict[str, Any] = {"name": name, "extend": "true" if extend else "false"}
    if template is not None:
        form["template"] = template
    if config:
        form["config"] = json.dumps(config)
    if seed is not None:
        form["seed"] = str(seed)
    if encoding is not None:
        form["encoding"] = encoding
    if not instant:
        form["instant"] = "false"
    if dry_run:
        form["dry_run"] = "true"
    if parent is not None:
        form["parent"] = parent
    if test_set is not None:
        form["test_set"] = test_set
    return _upload("/v1/tasks", archive, filename, form)


def check_seekable(archive: Archive, filename: str) -> None:
    """Check that an archive can be read again from its start, which a second attempt needs.

    Raises:
        ValueError: it cannot.
    """
    if not archive.seekable():
        raise ValueError(f"the archive {filename!r} cannot be read again from its start; give a file that can")


def test_sets() -> Call[StoredTestSets]:
    return Call("GET", "/v1/test-sets")


def test_set(name: str) -> Call[StoredTestSetDetails]:
    return Call("GET", f"/v1/test-sets/{_segment(name)}")


def put_test_set(
    name: str, archive: Archive, filename: str, *, reason: str, days: float | None, encoding: str | None
) -> Call[PutTestSet]:
    """Describe the upload of a test set. Sending it twice stores it once.

    Raises:
        ValueError: the archive cannot be read again from its start, which a second attempt needs.
    """
    check_seekable(archive, filename)
    form: dict[str, Any] = {"reason": reason}
    if days is not None:
        form["days"] = str(days)
    if encoding is not None:
        form["encoding"] = encoding
    return Call(
        "PUT",
        f"/v1/test-sets/{_segment(name)}",
        body={"data": form, "files": {"archive": (filename, archive, "application/octet-stream")}},
        timeout_s=INTAKE_TIMEOUT_S,
        reads_file=True,
        read=lambda document: with_skipped(document, archive),
    )


def remove_test_set(name: str, *, reason: str) -> Call[RemovedTestSet]:
    return Call("DELETE", f"/v1/test-sets/{_segment(name)}", body={"params": {"reason": reason}})


def evaluate(versions: Sequence[str], *, test_set: str | None) -> Call[EvaluateAccepted]:
    body: dict[str, Any] = {"versions": list(versions)}
    if test_set is not None:
        body["test_set"] = test_set
    return Call("POST", "/v1/evaluations", body={"json": body})


def evaluation(version_id: str, test_set: str) -> Call[SetEvaluation]:
    return Call("GET", f"/v1/versions/{_segment(version_id)}/test-sets/{_segment(test_set)}")


def report(version_id: str, *, path: PathName, test_set: str | None) -> Call[Report]:
    query = {"path": path, **({} if test_set is None else {"test_set": test_set})}
    return Call("GET", f"/v1/versions/{_segment(version_id)}/report", body={"params": query})


def compare(a: str, b: str, *, test_set: str | None, most: int) -> Call[Comparison]:
    query = {"most": str(most), **({} if test_set is None else {"test_set": test_set})}
    return Call("GET", f"/v1/versions/{_segment(a)}/compare/{_segment(b)}", body={"params": query})


def jobs() -> Call[list[Job]]:
    return Call("GET", "/v1/jobs", read=lambda document: document["jobs"])


def job(job_id: str) -> Call[Job]:
    return Call("GET", f"/v1/jobs/{_segment(job_id)}")


def events(job_id: str) -> Call[Job]:
    """Describe the event stream of a job, which `keepsight.client.events` reads."""
    return Call("GET", f"/v1/jobs/{_segment(job_id)}/events")


def cancel(job_id: str) -> Call[Job]:
    return Call("DELETE", f"/v1/jobs/{_segment(job_id)}")


def versions() -> Call[Versions]:
    return Call("GET", "/v1/versions")


def version(version_id: str) -> Call[Manifest]:
    return Call("GET", f"/v1/versions/{_segment(version_id)}")


def contributions(version_id: str) -> Call[Contributions]:
    return Call("GET", f"/v1/versions/{_segment(version_id)}/contributions")


def merge(ours: str, theirs: str, *, reason: str, config: Mapping[str, object] | None) -> Call[MergeAccepted]:
    body: dict[str, Any] = {"versions": [ours, theirs], "reason": reason}
    if config:
        body["config"] = dict(config)
    return Call("POST", "/v1/versions/merge", body={"json": body})


def correct(
    image: NamedImage,
    label: str,
    *,
    new_class: bool,
    taught_as: str | None,
    answer_id: str | None,
    answered: str | None,
    probability: float | None,
    answered_by: str | None,
    reason: str,
) -> Call[Correction]:
    form = {"label": label, "new_class": "true" if new_class else "false", "reason": reason}
    given = {
        "taught_as": taught_as,
        "answer_id": answer_id,
        "answered": answered,
        "probability": probability,
        "answered_by": answered_by,
    }
    form |= {name: str(value) for name, value in given.items() if value is not None}
    name, data = image
    files = {"image": (name, data, "application/octet-stream")}
    return Call("POST", "/v1/corrections", body={"data": form, "files": files})


def corrections() -> Call[Corrections]:
    return Call("GET", "/v1/corrections")


def remove_correction(number: int) -> Call[CorrectionsRemoved]:
    return Call("DELETE", f"/v1/corrections/{number}")


def remove_corrections() -> Call[CorrectionsRemoved]:
    return Call("DELETE", "/v1/corrections")


def learn_corrections() -> Call[CorrectionsAccepted]:
    return Call("POST", "/v1/corrections/learn")


def classes() -> Call[Classes]:
    return Call("GET", "/v1/classes")


def version_classes(version_id: str) -> Call[VersionClasses]:
    return Call("GET", f"/v1/versions/{_segment(version_id)}/classes")


def preview_edit(kind: EditKind, classes: Sequence[str], *, name: str | None, prompt: str | None) -> Call[EditPreview]:
    given = {"kind": kind, "classes": list(classes), "name": name, "prompt": prompt}
    body = {key: value for key, value in given.items() if value is not None}
    return Call("POST", "/v1/classes/preview", body={"json": body})


def rename_class(name: str, new_name: str | None, *, prompt: str | None, swap: bool, reason: str) -> Call[EditAccepted]:
    given = {"name": new_name, "prompt": prompt, "swap": swap or None, "reason": reason or None}
    body = {key: value for key, value in given.items() if value is not None}
    return Call("PATCH", f"/v1/classes/{_segment(name)}", body={"json": body})


def merge_classes(names: Sequence[str], into: str, *, prompt: str | None, reason: str) -> Call[EditAccepted]:
    given = {"classes": list(names), "name": into, "prompt": prompt, "reason": reason or None}
    body = {key: value for key, value in given.items() if value is not None}
    return Call("POST", "/v1/classes/merge", body={"json": body})


def delete_class(name: str, *, reason: str) -> Call[EditAccepted]:
    query = f"?{urlencode({'reason': reason})}" if reason else ""
    return Call("DELETE", f"/v1/classes/{_segment(name)}{query}")


def replace_class(name: str, archive: Archive, filename: str, *, reason: str, encoding: str | None) -> Call[Accepted]:
    """Describe an upload that replaces a class's images.

    Raises:
        ValueError: the archive cannot be read again from its start, which a second attempt needs.
    """
    form = {key: value for key, value in {"reason": reason, "encoding": encoding}.items() if value}
    return _upload(f"/v1/classes/{_segment(name)}/replace", archive, filename, form)


def rollout() -> Call[Rollout]:
    return Call("GET", "/v1/admin/rollout")


def rollback(version_id: str | None, *, reason: str, expected: str | None) -> Call[Moved]:
    return _move("/v1/admin/rollback", version_id, reason, expected)


def promote(version_id: str, *, reason: str, expected: str | None, anyway: bool) -> Call[Moved]:
    return _move("/v1/admin/promote", version_id, reason, expected, anyway=anyway)


def gate() -> Call[Gate]:
    return Call("GET", "/v1/admin/gate")


def change_gate(changes: Mapping[str, object], *, reason: str) -> Call[Gate]:
    return Call("PATCH", "/v1/admin/gate", body={"json": {**changes, **({"reason": reason} if reason else {})}})


def prune(keep: int, *, dry_run: bool, reason: str) -> Call[Pruned]:
    body = {"keep": keep, "dry_run": dry_run, "reason": reason}
    return Call("POST", "/v1/admin/prune", body={"json": body}, timeout_s=UPKEEP_TIMEOUT_S)


def pin(version_id: str, *, reason: str) -> Call[Pinned]:
    route = f"/v1/versions/{_segment(version_id)}/pin"
    return Call("POST", route, body={"json": {"reason": reason}}, timeout_s=UPKEEP_TIMEOUT_S)


def unpin(version_id: str, *, reason: str) -> Call[Pinned]:
    route = f"/v1/versions/{_segment(version_id)}/pin"
    return Call("DELETE", route, body={"params": {"reason": reason}}, timeout_s=UPKEEP_TIMEOUT_S)


def verify(version_id: str) -> Call[Verified]:
    return Call("POST", f"/v1/versions/{_segment(version_id)}/verify", timeout_s=UPKEEP_TIMEOUT_S)


def export(version_id: str, form: ExportFormat) -> Call[None]:
    """Describe the download of a version, which `keepsight.client.downloads` reads."""
    route = f"/v1/versions/{_segment(version_id)}/export"
    return Call("GET", route, body={"params": {"format": form}}, timeout_s=EXPORT_TIMEOUT_S)


def backup() -> Call[None]:
    """Describe the download of the store, which `keepsight.client.downloads` reads."""
    return Call("GET", "/v1/admin/backup", timeout_s=UPKEEP_TIMEOUT_S)


def _upload(route: str, archive: Archive, filename: str, form: Mapping[str, str]) -> Call[Accepted]:
    check_seekable(archive, filename)
    return Call(
        "POST",
        route,
        body={"data": dict(form), "files": {"archive": (filename, archive, "application/octet-stream")}},
        headers={"Idempotency-Key": uuid.uuid4().hex},  # so that a second attempt cannot start a second job
        timeout_s=INTAKE_TIMEOUT_S,
        reads_file=True,
        read=lambda document: with_skipped(document, archive),
    )


def _move(
    route: str, version_id: str | None, reason: str, expected: str | None, *, anyway: bool = False
) -> Call[Moved]:
    body: dict[str, Any] = {"version_id": version_id, "reason": reason}
    if anyway:  # an older service does not know it
        body["anyway"] = True
    if expected is not None:
        body["expected"] = expected
    return Call("POST", route, body={"json": body}, timeout_s=SWAP_TIMEOUT_S)


def _segment(identifier: str) -> str:
    return quote(identifier, safe="")

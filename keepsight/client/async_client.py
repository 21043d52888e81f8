"""The REST API as methods to await, for programs that run on an event loop."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar, cast

import anyio
import anyio.to_thread
import httpx

from keepsight.client import calls
from keepsight.client.api import (
    TERMINAL_STATES,
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
from keepsight.client.calls import DEFAULT_URL, Call
from keepsight.client.downloads import (
    BackupFile,
    Check,
    ExportedFile,
    ExportFormat,
    OnBytes,
    check_backup,
    exported,
    file_for,
    no_check,
    receiving,
)
from keepsight.client.events import JobEvents
from keepsight.client.images import Image, embedding_inputs, named_image, named_images
from keepsight.client.problems import api_error, unreachable
from keepsight.client.retries import Retries
from keepsight.client.uploads import Archive, open_archive

T = TypeVar("T")


class AsyncClient:
    """`keepsight.Client` with methods to await; their arguments, results and errors are documented there.

    Files are read in threads, never on the event loop. Many coroutines may use one client at the same time.

    Args:
        url: The service's address, without a path.
        api_key: Sent as a bearer token.
        timeout_s: The longest wait for the service in ordinary requests.
        retries: When a request is sent again.
        transport: Replaces the network in tests.
        sleep: Waits between attempts and between polls.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        api_key: str | None = None,
        timeout_s: float = 60.0,
        retries: Retries = Retries(),
        transport: httpx.AsyncBaseTransport | None = None,
        sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
    ) -> None:
        self.url = url.rstrip("/")
        self._http = httpx.AsyncClient(**calls.connection(self.url, api_key, timeout_s), transport=transport)
        self._retries = retries
        self._sleep = sleep

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def ready(self) -> bool:
        """Return whether a version is loaded and answers. Never raises for a service that is down or not yet ready."""
        try:
            return (await self._attempt(calls.ready())).is_success
        except httpx.TransportError:
            return False

    async def classify(
        self,
        images: Sequence[Image],
        *,
        top_k: int = 5,
        path: PathName = "fused",
        labels: Sequence[str] = (),
        template: str | None = None,
        with_classes: bool = False,
        zero_shot: ZeroShot | None = None,
        set_coverage: float | None = None,
        known_share: float | None = None,
        version: str | None = None,
        timeout_ms: int | None = None,
    ) -> Classification:
        """Classify 1 to 64 images, over the served classes or over `labels` (classes or any words)."""
        named = await anyio.to_thread.run_sync(named_images, images)
        return await self._send(
            calls.classify(
                named,
                top_k=top_k,
                path=path,
                labels=labels,
                template=template,
                with_classes=with_classes,
                zero_shot=zero_shot,
                set_coverage=set_coverage,
                known_share=known_share,
                version=version,
                timeout_ms=timeout_ms,
            )
        )

    async def embeddings(
        self,
        inputs: str | Sequence[str | Image],
        *,
        stored_version: str | None = None,
        timeout_ms: int | None = None,
    ) -> Embeddings:
        """Return unit vectors of texts (strings) and images (anything else), in the order of `inputs`."""
        inputs = await anyio.to_thread.run_sync(embedding_inputs, inputs)
        return await self._send(calls.embeddings(inputs, stored_version=stored_version, timeout_ms=timeout_ms))

    async def teach(
        self,
        archive: Path | Archive,
        filename: str = "archive",
        *,
        name: str,
        template: str | None = None,
        extend: bool = False,
        config: Mapping[str, object] | None = None,
        seed: int | None = None,
        encoding: str | None = None,
        instant: bool = True,
        dry_run: bool = False,
        parent: str | None = None,
        test_set: str | None = None,
    ) -> Accepted:
        """Upload a task. Each attempt streams the archive from its start; at most one job is created."""
        with await anyio.to_thread.run_sync(open_archive, archive) as file:
            call = calls.teach(
                file,
                filename,
                name=name,
                template=template,
                extend=extend,
                config=config,
                seed=seed,
                encoding=encoding,
                instant=instant,
                dry_run=dry_run,
                parent=parent,
                test_set=test_set,
            )
            return await self._send(call)

    async def test_sets(self) -> StoredTestSets:
        """Return the test sets, and how much more may be stored."""
        return await self._send(calls.test_sets())

    async def test_set(self, name: str) -> StoredTestSetDetails:
        """Return a test set with the label and the checksum of each image."""
        return await self._send(calls.test_set(name))

    async def put_test_set(
        self,
        name: str,
        archive: Path | Archive,
        filename: str = "archive",
        *,
        reason: str = "",
        days: float | None = None,
        encoding: str | None = None,
    ) -> PutTestSet:
        """Store labelled images to measure versions on, in place of the test set of that name."""
        with await anyio.to_thread.run_sync(open_archive, archive) as file:
            call = calls.put_test_set(name, file, filename, reason=reason, days=days, encoding=encoding)
            return await self._send(call)

    async def remove_test_set(self, name: str, *, reason: str = "") -> RemovedTestSet:
        """Remove a test set with its images, and return the receipt."""
        return await self._send(calls.remove_test_set(name, reason=reason))

    async def evaluate(self, versions: Sequence[str], *, test_set: str | None = None) -> EvaluateAccepted:
        """Queue the measuring of versions on a test set, or on all; `follow` its job."""
        return await self._send(calls.evaluate(versions, test_set=test_set))

    async def evaluation(self, version_id: str, test_set: str) -> SetEvaluation:
        """Return what a version answers to a test set."""
        return await self._send(calls.evaluation(version_id, test_set))

    async def report(self, version_id: str, *, path: PathName = "fused", test_set: str | None = None) -> Report:
        """Return the accuracy on every task after every task of a version's lineage, and what follows from it."""
        return await self._send(calls.report(version_id, path=path, test_set=test_set))

    async def compare(self, a: str, b: str, *, test_set: str | None = None, most: int = 100) -> Comparison:
        """Compare two versions on the test images that both were measured on."""
        return await self._send(calls.compare(a, b, test_set=test_set, most=most))

    async def jobs(self) -> list[Job]:
        """Return all jobs that the service has stored."""
        return await self._send(calls.jobs())

    async def job(self, job_id: str) -> Job:
        """Return one job."""
        return await self._send(calls.job(job_id))

    async def cancel(self, job_id: str) -> Job:
        """Ask a job to stop, which it does within one step."""
        return await self._send(calls.cancel(job_id))

    async def follow(self, job_id: str, *, poll_s: float = 1.0) -> AsyncIterator[Job]:
        """Yield the job now and after every change, ending with its terminal state."""
        while True:
            job = await self.job(job_id)
            yield job
            if job["state"] in TERMINAL_STATES:
                return
            async for job in self._events(job_id):
                yield job
                if job["state"] in TERMINAL_STATES:
                    return
            await self._sleep(poll_s)

    async def versions(self) -> Versions:
        """Return all versions, the current one and the one that is served."""
        return await self._send(calls.versions())

    async def version(self, version_id: str) -> Manifest:
        """Return the manifest of one version."""
        return await self._send(calls.version(version_id))

    async def contributions(self, version_id: str) -> Contributions:
        """Return what a version's new classes had in common with the old ones, before they were learned."""
        return await self._send(calls.contributions(version_id))

    async def merge(
        self, ours: str, theirs: str, *, reason: str = "", config: Mapping[str, object] | None = None
    ) -> MergeAccepted:
        """Queue the merge of two versions that were taught different tasks from one; `follow` its job."""
        return await self._send(calls.merge(ours, theirs, reason=reason, config=config))

    async def correct(
        self,
        image: Image,
        label: str,
        *,
        new_class: bool = False,
        taught_as: str | None = None,
        answer_id: str | None = None,
        answered: str | None = None,
        probability: float | None = None,
        answered_by: str | None = None,
        reason: str = "",
    ) -> Correction:
        """Say that `label` is right for an image that was answered wrongly. It is kept until it is learned.

        Args:
            image: A file, its bytes, or (name, bytes).
            label: The right class.
            new_class: Whether `label` is to become a class, if it is none yet.
            taught_as: The class that this very image was taught as, by a wrong label.
            answered: What it was answered. Left out: the service says what it answers now.
            probability: The probability of that answer.
            answered_by: The version that answered.
            reason: Why; kept until the correction is learned.
        """
        call = calls.correct(
            named_image(image),
            label,
            new_class=new_class,
            taught_as=taught_as,
            answer_id=answer_id,
            answered=answered,
            probability=probability,
            answered_by=answered_by,
            reason=reason,
        )
        return await self._send(call)

    async def corrections(self) -> Corrections:
        """Return the corrections that wait to be learned."""
        return await self._send(calls.corrections())

    async def remove_correction(self, number: int) -> CorrectionsRemoved:
        """Remove one correction that waits."""
        return await self._send(calls.remove_correction(number))

    async def remove_corrections(self) -> CorrectionsRemoved:
        """Remove all corrections that wait."""
        return await self._send(calls.remove_corrections())

    async def learn_corrections(self) -> CorrectionsAccepted:
        """Queue one job that learns all corrections that wait; `follow` it."""
        return await self._send(calls.learn_corrections())

    async def classes(self) -> Classes:
        """Return the classes that are served."""
        return await self._send(calls.classes())

    async def version_classes(self, version_id: str) -> VersionClasses:
        """Return what is known of a version's classes: accuracy, the nearest others, and what they are taken for."""
        return await self._send(calls.version_classes(version_id))

    async def preview_edit(
        self, kind: EditKind, classes: Sequence[str], *, name: str | None = None, prompt: str | None = None
    ) -> EditPreview:
        """Return what an edit of the classes would change. Nothing is queued."""
        return await self._send(calls.preview_edit(kind, classes, name=name, prompt=prompt))

    async def rename_class(
        self,
        name: str,
        new_name: str | None = None,
        *,
        prompt: str | None = None,
        swap: bool = False,
        reason: str = "",
    ) -> EditAccepted:
        """Queue another name or prompt for a class, or with `swap` an exchange with the class that has the name."""
        return await self._send(calls.rename_class(name, new_name, prompt=prompt, swap=swap, reason=reason))

    async def merge_classes(
        self, names: Sequence[str], into: str, *, prompt: str | None = None, reason: str = ""
    ) -> EditAccepted:
        """Queue an edit that makes several classes one; `follow` its job."""
        return await self._send(calls.merge_classes(names, into, prompt=prompt, reason=reason))

    async def delete_class(self, name: str, *, reason: str = "") -> EditAccepted:
        """Queue an edit that takes a class away; `follow` its job, whose result says what remains of it."""
        return await self._send(calls.delete_class(name, reason=reason))

    async def replace_class(
        self,
        name: str,
        archive: Path | Archive,
        filename: str = "archive",
        *,
        reason: str = "",
        encoding: str | None = None,
    ) -> Accepted:
        """Upload other images of a class, in place of all that it was taught with. The archive has that class alone."""
        with await anyio.to_thread.run_sync(open_archive, archive) as file:
            call = calls.replace_class(name, file, filename, reason=reason, encoding=encoding)
            return await self._send(call)

    async def rollout(self) -> Rollout:
        """Return what every server serves and prepares."""
        return await self._send(calls.rollout())

    async def rollback(self, version_id: str | None = None, *, reason: str = "", expected: str | None = None) -> Moved:
        """Roll back to `version_id`, or to the current version's parent, if the current version is `expected`."""
        return await self._send(calls.rollback(version_id, reason=reason, expected=expected))

    async def promote(
        self, version_id: str, *, reason: str = "", expected: str | None = None, anyway: bool = False
    ) -> Moved:
        """Promote `version_id`, if the current version is `expected`.

        A version that the gate holds is refused (`ApiError`, 409, `held`), unless `anyway` is set and a reason given.
        """
        return await self._send(calls.promote(version_id, reason=reason, expected=expected, anyway=anyway))

    async def prune(self, keep: int, *, dry_run: bool = False, reason: str = "") -> Pruned:
        """Remove versions that are neither needed nor pinned, so that `keep` steps back stay possible.

        With `dry_run` nothing is removed.
        """
        return await self._send(calls.prune(keep, dry_run=dry_run, reason=reason))

    async def pin(self, version_id: str, *, reason: str = "") -> Pinned:
        """Keep a version from being pruned."""
        return await self._send(calls.pin(version_id, reason=reason))

    async def unpin(self, version_id: str, *, reason: str = "") -> Pinned:
        """Let a version be pruned again."""
        return await self._send(calls.unpin(version_id, reason=reason))

    async def verify(self, version_id: str) -> Verified:
        """Have every byte of a version checked, and its golden answers. Damage is in the answer, and no error."""
        return await self._send(calls.verify(version_id))

    async def export(
        self,
        version_id: str,
        path: Path,
        *,
        form: ExportFormat = "safetensors",
        on_bytes: OnBytes | None = None,
    ) -> ExportedFile:
        """Write a version to a file, or under its own name to a folder. The file appears once it is complete.

        Args:
            version_id: the version.
            path: the file or the folder.
            form: `safetensors`: the version as it is; `onnx`: a model that gives the answers of the service.
            on_bytes: gets the bytes received so far, and how many there will be.

        Raises:
            DownloadError: the file cannot be written.
        """
        target = file_for(path, version_id, form)
        response = await self._download(calls.export(version_id, form), target, on_bytes)
        return exported(target, response)

    async def backup(self, path: Path, *, on_bytes: OnBytes | None = None) -> BackupFile:
        """Write a copy of the service's store to a tar file, which appears once it is received.

        Args:
            path: the file.
            on_bytes: gets the bytes received so far, and 0, because it is not known how many there will be.

        Raises:
            DownloadError: the file cannot be written.
            ApiError: the answer ended too early.
        """
        found: list[BackupFile] = []
        await self._download(
            calls.backup(), path, on_bytes, check=lambda part, response: found.append(check_backup(part, response))
        )
        return replace(found[-1], path=path)

    async def _download(
        self, call: Call[None], target: Path, on_bytes: OnBytes | None, *, check: Check = no_check
    ) -> httpx.Response:
        for attempt in itertools.count(1):
            try:
                response = await self._http.send(call.request(self._http.build_request), stream=True)
                try:
                    if response.is_success:
                        async with _in_threads(receiving(target, response, on_bytes, check=check)) as write:
                            async for piece in response.aiter_bytes():
                                await anyio.to_thread.run_sync(write, piece)
                        return response
                    await response.aread()
                finally:
                    await response.aclose()
            except (httpx.TransportError, httpx.InvalidURL) as error:
                wait_s = self._retries.wait_s(attempt, error)
                if wait_s is None:
                    raise unreachable(error, self.url, str(call)) from error
            else:
                wait_s = self._retries.wait_s(attempt, response)
                if wait_s is None:
                    raise api_error(response)
            await self._sleep(wait_s)
        raise AssertionError("the last attempt returns or raises")

    async def gate(self) -> Gate:
        """Return the policy by which a published version is promoted or held."""
        return await self._send(calls.gate())

    async def change_gate(self, changes: Mapping[str, object], *, reason: str = "") -> Gate:
        """Change fields of that policy, and return it. None sets a field back to its default."""
        return await self._send(calls.change_gate(changes, reason=reason))

    async def _send(self, call: Call[T]) -> T:
        """Send a call, retry it if that may help, and raise the client's own errors."""
        for attempt in itertools.count(1):
            try:
                response = await self._attempt(call)
            except (httpx.TransportError, httpx.InvalidURL) as error:
                wait_s = self._retries.wait_s(attempt, error)
                if wait_s is None:
                    raise unreachable(error, self.url, str(call)) from error
            else:
                wait_s = self._retries.wait_s(attempt, response)
                if wait_s is None:
                    return call.answer(response)
            await self._sleep(wait_s)
        raise AssertionError("the last attempt returns or raises")

    async def _attempt(self, call: Call[T]) -> httpx.Response:
        request = call.request(self._http.build_request)
        if call.reads_file:
            request.stream = ReadInThreads(cast(Iterable[bytes], request.stream))
        return await self._http.send(request)

    async def _events(self, job_id: str) -> AsyncIterator[Job]:
        """Yield the job's events until the stream ends or breaks; nothing if there is no stream."""
        events = JobEvents()
        call = calls.events(job_id)
        try:
            async with self._http.stream(call.method, call.route) as response:
                if response.is_success:
                    async for line in response.aiter_lines():
                        if job := events.feed(line):
                            yield job
        except (httpx.TransportError, httpx.StreamError, ValueError):
            return


class ReadInThreads(httpx.AsyncByteStream):
    """A request's body whose chunks (of 64 KiB, as httpx reads files) are read in threads.

    httpx itself reads an upload's file on the event loop, which a slow disk would block.
    """

    def __init__(self, body: Iterable[bytes]) -> None:
        self._body = body

    async def __aiter__(self) -> AsyncIterator[bytes]:
        chunks = filter(None, self._body)  # that of a field without a value is empty, and is not the end
        while chunk := await anyio.to_thread.run_sync(next, chunks, b""):
            yield chunk


@asynccontextmanager
async def _in_threads(manager: AbstractContextManager[T]) -> AsyncIterator[T]:
    """Enter and leave what reads and writes files outside the event loop, also where the caller is cancelled."""
    with anyio.CancelScope(shield=True):
        value = await anyio.to_thread.run_sync(manager.__enter__)
    try:
        yield value
    except BaseException as error:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(manager.__exit__, type(error), error, error.__traceback__)
        raise
    else:
        await anyio.to_thread.run_sync(manager.__exit__, None, None, None)

"""The REST API as methods to await, for programs that run on an event loop."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
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
    Contributions,
    Correction,
    Corrections,
    CorrectionsAccepted,
    CorrectionsRemoved,
    Embeddings,
    Gate,
    Job,
    Manifest,
    MergeAccepted,
    Moved,
    PathName,
    Rollout,
    Versions,
    ZeroShot,
)
from keepsight.client.calls import DEFAULT_URL, Call
from keepsight.client.events import JobEvents
from keepsight.client.images import Image, embedding_inputs, named_image, named_images
from keepsight.client.problems import unreachable
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
        parent: str | None = None,
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
                parent=parent,
            )
            return await self._send(call)

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
        chunks = iter(self._body)
        while chunk := await anyio.to_thread.run_sync(next, chunks, b""):
            yield chunk

"""The REST API as blocking methods. The command line and the demo call the service only through it."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

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


class Client:
    """The REST API as methods; `keepsight.AsyncClient` has the same methods, to be awaited.

    Args:
        url: The service's address, without a path.
        api_key: Sent as a bearer token.
        timeout_s: The longest wait for the service in ordinary requests.
        retries: When a request is sent again.
        transport: Replaces the network in tests.
        sleep: Waits between attempts and between polls.

    Raises (all methods):
        ServiceUnreachableError: nothing answers at `url`.
        ApiError: the service answered with an error.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        api_key: str | None = None,
        timeout_s: float = 60.0,
        retries: Retries = Retries(),
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.url = url.rstrip("/")
        self._http = httpx.Client(**calls.connection(self.url, api_key, timeout_s), transport=transport)
        self._retries = retries
        self._sleep = sleep

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def ready(self) -> bool:
        """Return whether a version is loaded and answers. Never raises for a service that is down or not yet ready."""
        try:
            return self._attempt(calls.ready()).is_success
        except httpx.TransportError:
            return False

    def classify(
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
        """Classify 1 to 64 images, over the served classes or over `labels` (classes or any words).

        Args:
            images: Files, their bytes, or (name, bytes); the answer repeats the name.
            top_k: Predictions per image.
            path: Which scores rank the labels.
            labels: Words to choose among instead of the served classes. Those that name a class are answered as it is.
            template: The prompt for a label, with {} in its place.
            with_classes: Choose among the served classes too, beside `labels`.
            zero_shot: Who scores words that were never taught: the base model, `untouched`, or the `adapted` towers.
            set_coverage: Ask for `label_set`, which has the right label with this probability.
            known_share: The share of images of learned classes that are not to be called unknown; default 0.95.
            timeout_ms: Milliseconds after which the service gives the request up.
        """
        named = named_images(images)
        return self._send(
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

    def embeddings(
        self,
        inputs: str | Sequence[str | Image],
        *,
        stored_version: str | None = None,
        timeout_ms: int | None = None,
    ) -> Embeddings:
        """Return unit vectors of texts (strings) and images (anything else), in the order of `inputs`.

        Vectors of different `space` must not be compared: pass the version or space of your stored vectors as
        `stored_version`, and `matches_stored` says whether they can be compared with these.
        """
        inputs = embedding_inputs(inputs)
        return self._send(calls.embeddings(inputs, stored_version=stored_version, timeout_ms=timeout_ms))

    def teach(
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
        """Upload a task. Each attempt streams the archive from its start; at most one job is created.

        Args:
            archive: A folder with a subfolder per class, a zip, tar or parquet file, or such a file opened.
            filename: The name to send; the service goes by the content.
            name: The task's name.
            template: The prompt for a class, with {} in place of its name.
            extend: Allow more images of known classes.
            config: Hyper-parameters to override.
            seed: Seed of all random choices in the update.
            encoding: Encoding of the names in an archive that does not say it itself, for example gbk.
            instant: Whether a version without training is made and served first.
            parent: The version to learn on, beside the current one: the result is published, and not promoted.

        The answer's validation says what became of every file, and of what a folder has and was not sent.

        Raises:
            UploadError: the folder or file cannot be read, or has no class in it.
            ValueError: the opened file cannot be read again from its start.
        """
        with open_archive(archive) as file:
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
            return self._send(call)

    def jobs(self) -> list[Job]:
        """Return all jobs that the service has stored."""
        return self._send(calls.jobs())

    def job(self, job_id: str) -> Job:
        """Return one job."""
        return self._send(calls.job(job_id))

    def cancel(self, job_id: str) -> Job:
        """Ask a job to stop, which it does within one step."""
        return self._send(calls.cancel(job_id))

    def follow(self, job_id: str, *, poll_s: float = 1.0) -> Iterator[Job]:
        """Yield the job now and after every change, ending with its terminal state.

        Uses server-sent events; when the stream breaks, polls once and opens it again.
        """
        while True:
            job = self.job(job_id)
            yield job
            if job["state"] in TERMINAL_STATES:
                return
            for job in self._events(job_id):
                yield job
                if job["state"] in TERMINAL_STATES:
                    return
            self._sleep(poll_s)

    def versions(self) -> Versions:
        """Return all versions, the current one and the one that is served."""
        return self._send(calls.versions())

    def version(self, version_id: str) -> Manifest:
        """Return the manifest of one version."""
        return self._send(calls.version(version_id))

    def contributions(self, version_id: str) -> Contributions:
        """Return what a version's new classes had in common with the old ones, before they were learned."""
        return self._send(calls.contributions(version_id))

    def merge(
        self, ours: str, theirs: str, *, reason: str = "", config: Mapping[str, object] | None = None
    ) -> MergeAccepted:
        """Queue the merge of two versions that were taught different tasks from one; `follow` its job."""
        return self._send(calls.merge(ours, theirs, reason=reason, config=config))

    def correct(
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
        return self._send(call)

    def corrections(self) -> Corrections:
        """Return the corrections that wait to be learned."""
        return self._send(calls.corrections())

    def remove_correction(self, number: int) -> CorrectionsRemoved:
        """Remove one correction that waits."""
        return self._send(calls.remove_correction(number))

    def remove_corrections(self) -> CorrectionsRemoved:
        """Remove all corrections that wait."""
        return self._send(calls.remove_corrections())

    def learn_corrections(self) -> CorrectionsAccepted:
        """Queue one job that learns all corrections that wait; `follow` it."""
        return self._send(calls.learn_corrections())

    def classes(self) -> Classes:
        """Return the classes that are served."""
        return self._send(calls.classes())

    def rollout(self) -> Rollout:
        """Return what every server serves and prepares."""
        return self._send(calls.rollout())

    def rollback(self, version_id: str | None = None, *, reason: str = "", expected: str | None = None) -> Moved:
        """Roll back to `version_id`, or to the current version's parent, if the current version is `expected`."""
        return self._send(calls.rollback(version_id, reason=reason, expected=expected))

    def promote(self, version_id: str, *, reason: str = "", expected: str | None = None, anyway: bool = False) -> Moved:
        """Promote `version_id`, if the current version is `expected`.

        A version that the gate holds is refused (`ApiError`, 409, `held`), unless `anyway` is set and a reason given.
        """
        return self._send(calls.promote(version_id, reason=reason, expected=expected, anyway=anyway))

    def gate(self) -> Gate:
        """Return the policy by which a published version is promoted or held."""
        return self._send(calls.gate())

    def change_gate(self, changes: Mapping[str, object], *, reason: str = "") -> Gate:
        """Change fields of that policy, and return it. None sets a field back to its default."""
        return self._send(calls.change_gate(changes, reason=reason))

    def _send(self, call: Call[T]) -> T:
        """Send a call, retry it if that may help, and raise the client's own errors."""
        for attempt in itertools.count(1):
            try:
                response = self._attempt(call)
            except (httpx.TransportError, httpx.InvalidURL) as error:
                wait_s = self._retries.wait_s(attempt, error)
                if wait_s is None:
                    raise unreachable(error, self.url, str(call)) from error
            else:
                wait_s = self._retries.wait_s(attempt, response)
                if wait_s is None:
                    return call.answer(response)
            self._sleep(wait_s)
        raise AssertionError("the last attempt returns or raises")

    def _attempt(self, call: Call[T]) -> httpx.Response:
        return self._http.send(call.request(self._http.build_request))

    def _events(self, job_id: str) -> Iterator[Job]:
        """Yield the job's events until the stream ends or breaks; nothing if there is no stream."""
        events = JobEvents()
        call = calls.events(job_id)
        try:
            with self._http.stream(call.method, call.route) as response:
                if response.is_success:
                    for line in response.iter_lines():
                        if job := events.feed(line):
                            yield job
        except (httpx.TransportError, httpx.StreamError, ValueError):
            return

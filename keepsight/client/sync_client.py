"""The REST API as blocking methods. The command line and the demo call the service only through it."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
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
        version: str | None = None,
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
            version: A stored version that answers instead of the served one.
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
                version=version,
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
        dry_run: bool = False,
        parent: str | None = None,
        test_set: str | None = None,
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
            dry_run: Whether the images are only checked: their labels are looked at, and nothing is learned.
            parent: The version to learn on, beside the current one: the result is published, and not promoted.
            test_set: Keep the archive's test split, or its val split if it has no other, as a test set of this name.

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
                dry_run=dry_run,
                parent=parent,
                test_set=test_set,
            )
            return self._send(call)

    def test_sets(self) -> StoredTestSets:
        """Return the test sets, and how much more may be stored."""
        return self._send(calls.test_sets())

    def test_set(self, name: str) -> StoredTestSetDetails:
        """Return a test set with the label and the checksum of each image."""
        return self._send(calls.test_set(name))

    def put_test_set(
        self,
        name: str,
        archive: Path | Archive,
        filename: str = "archive",
        *,
        reason: str = "",
        days: float | None = None,
        encoding: str | None = None,
    ) -> PutTestSet:
        """Store labelled images to measure versions on, in place of the test set of that name.

        Args:
            name: Lower-case letters, digits, `.`, `_` and `-`.
            archive: A folder with a subfolder per class, a zip, tar or parquet file, or such a file opened.
            filename: The name to send; the service goes by the content.
            reason: Kept with the set.
            days: How long it is kept; None: as the service is set.
            encoding: Encoding of the names in an archive that does not say it itself.

        Raises:
            UploadError: the folder or file cannot be read, or has no class in it.
            ValueError: the opened file cannot be read again from its start.
        """
        with open_archive(archive) as file:
            call = calls.put_test_set(name, file, filename, reason=reason, days=days, encoding=encoding)
            return self._send(call)

    def remove_test_set(self, name: str, *, reason: str = "") -> RemovedTestSet:
        """Remove a test set with its images, and return the receipt."""
        return self._send(calls.remove_test_set(name, reason=reason))

    def evaluate(self, versions: Sequence[str], *, test_set: str | None = None) -> EvaluateAccepted:
        """Queue the measuring of versions on a test set, or on all; `follow` its job."""
        return self._send(calls.evaluate(versions, test_set=test_set))

    def evaluation(self, version_id: str, test_set: str) -> SetEvaluation:
        """Return what a version answers to a test set."""
        return self._send(calls.evaluation(version_id, test_set))

    def report(self, version_id: str, *, path: PathName = "fused", test_set: str | None = None) -> Report:
        """Return the accuracy on every task after every task of a version's lineage, and what follows from it."""
        return self._send(calls.report(version_id, path=path, test_set=test_set))

    def compare(self, a: str, b: str, *, test_set: str | None = None, most: int = 100) -> Comparison:
        """Compare two versions on the test images that both were measured on."""
        return self._send(calls.compare(a, b, test_set=test_set, most=most))

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
            answer_id: The `id` of the answer, in place of the next three.
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

    def version_classes(self, version_id: str) -> VersionClasses:
        """Return what is known of a version's classes: accuracy, the nearest others, and what they are taken for."""
        return self._send(calls.version_classes(version_id))

    def preview_edit(
        self, kind: EditKind, classes: Sequence[str], *, name: str | None = None, prompt: str | None = None
    ) -> EditPreview:
        """Return what an edit of the classes would change. Nothing is queued."""
        return self._send(calls.preview_edit(kind, classes, name=name, prompt=prompt))

    def rename_class(
        self,
        name: str,
        new_name: str | None = None,
        *,
        prompt: str | None = None,
        swap: bool = False,
        reason: str = "",
    ) -> EditAccepted:
        """Queue another name or prompt for a class, or with `swap` an exchange with the class that has the name."""
        return self._send(calls.rename_class(name, new_name, prompt=prompt, swap=swap, reason=reason))

    def merge_classes(
        self, names: Sequence[str], into: str, *, prompt: str | None = None, reason: str = ""
    ) -> EditAccepted:
        """Queue an edit that makes several classes one; `follow` its job."""
        return self._send(calls.merge_classes(names, into, prompt=prompt, reason=reason))

    def delete_class(self, name: str, *, reason: str = "") -> EditAccepted:
        """Queue an edit that takes a class away; `follow` its job, whose result says what remains of it."""
        return self._send(calls.delete_class(name, reason=reason))

    def replace_class(
        self,
        name: str,
        archive: Path | Archive,
        filename: str = "archive",
        *,
        reason: str = "",
        encoding: str | None = None,
    ) -> Accepted:
        """Upload other images of a class, in place of all that it was taught with. The archive has that class alone."""
        with open_archive(archive) as file:
            call = calls.replace_class(name, file, filename, reason=reason, encoding=encoding)
            return self._send(call)

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

    def prune(self, keep: int, *, dry_run: bool = False, reason: str = "") -> Pruned:
        """Remove versions that are neither needed nor pinned, so that `keep` steps back stay possible.

        With `dry_run` nothing is removed.
        """
        return self._send(calls.prune(keep, dry_run=dry_run, reason=reason))

    def pin(self, version_id: str, *, reason: str = "") -> Pinned:
        """Keep a version from being pruned."""
        return self._send(calls.pin(version_id, reason=reason))

    def unpin(self, version_id: str, *, reason: str = "") -> Pinned:
        """Let a version be pruned again."""
        return self._send(calls.unpin(version_id, reason=reason))

    def verify(self, version_id: str) -> Verified:
        """Have every byte of a version checked, and its golden answers. Damage is in the answer, and no error."""
        return self._send(calls.verify(version_id))

    def export(
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
        response = self._download(calls.export(version_id, form), target, on_bytes)
        return exported(target, response)

    def backup(self, path: Path, *, on_bytes: OnBytes | None = None) -> BackupFile:
        """Write a copy of the service's store to a tar file, which appears once it is received.

        Args:
            path: the file.
            on_bytes: gets the bytes received so far, and 0, because it is not known how many there will be.

        Raises:
            DownloadError: the file cannot be written.
            ApiError: the answer ended too early.
        """
        found: list[BackupFile] = []
        self._download(
            calls.backup(), path, on_bytes, check=lambda part, response: found.append(check_backup(part, response))
        )
        return replace(found[-1], path=path)

    def _download(
        self, call: Call[None], target: Path, on_bytes: OnBytes | None, *, check: Check = no_check
    ) -> httpx.Response:
        for attempt in itertools.count(1):
            try:
                response = self._http.send(call.request(self._http.build_request), stream=True)
                try:
                    if response.is_success:
                        with receiving(target, response, on_bytes, check=check) as write:
                            for piece in response.iter_bytes():
                                write(piece)
                        return response
                    response.read()
                finally:
                    response.close()
            except (httpx.TransportError, httpx.InvalidURL) as error:
                wait_s = self._retries.wait_s(attempt, error)
                if wait_s is None:
                    raise unreachable(error, self.url, str(call)) from error
            else:
                wait_s = self._retries.wait_s(attempt, response)
                if wait_s is None:
                    raise api_error(response)
            self._sleep(wait_s)
        raise AssertionError("the last attempt returns or raises")

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

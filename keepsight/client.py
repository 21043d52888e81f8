"""A small synchronous client of the REST API. The command line and the demo speak to the service through it alone."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self, cast
from urllib.parse import quote

import httpx

from keepsight.api import (
    TERMINAL_STATES,
    Accepted,
    Classes,
    Classification,
    Job,
    Moved,
    Versions,
)
from keepsight.errors import ApiError, ServiceUnreachableError

DEFAULT_URL = "http://127.0.0.1:8000"
MAX_BATCH = 64
"""Images that one request may carry."""

RETRY_STATUSES = frozenset({429, 503})
MAX_RETRY_WAIT_S = 10.0
SWAP_TIMEOUT_S = 120.0
INTAKE_TIMEOUT_S = 900.0  # the server answers an upload after it has unpacked and checked every image

Image = tuple[str, bytes]
"""A file name, as the answer will repeat it, and the file's bytes."""


class Client:
    """The REST API as methods.

    Requests that could not be delivered or were turned away for now (429, 503) are sent again, `attempts` times
    in all, after `Retry-After` where the service gives one.

    Args:
        url: The service's address, without a path.
        api_key: Sent as a bearer token.
        timeout_s: For connecting, and for every wait on the service in ordinary requests.
        attempts: How often a request is tried; 1 means never again.
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
        attempts: int = 4,
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.url = url.rstrip("/")
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        try:
            self._http = httpx.Client(
                base_url=self.url, headers=headers, timeout=httpx.Timeout(timeout_s, connect=5.0), transport=transport
            )
        except (httpx.InvalidURL, ValueError) as error:
            raise ServiceUnreachableError(f"{url!r} is not an address: {error}.") from error
        self._attempts = attempts
        self._sleep = sleep

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def ready(self) -> bool:
        """Whether a version is loaded and answers. Never raises for a service that is down or not yet ready."""
        try:
            return self._http.get("/readyz", timeout=5.0).status_code == httpx.codes.OK
        except httpx.TransportError:
            return False

    def classify(
        self,
        images: Sequence[Image],
        *,
        top_k: int = 5,
        path: str = "fused",
        labels: Sequence[str] = (),
        template: str | None = None,
    ) -> Classification:
        """Classify 1 to 64 images, over the served classes or over `labels` (any words; text path)."""
        form: dict[str, Any] = {"top_k": str(top_k), "path": path}
        if labels:
            form["labels"] = list(labels)
        if template is not None:
            form["template"] = template
        files = [("images", (name, data, "application/octet-stream")) for name, data in images]
        return cast(Classification, self._json("POST", "/v1/classify", data=form, files=files))

    def teach(
        self,
        archive: BinaryIO,
        filename: str,
        *,
        name: str,
        template: str | None = None,
        extend: bool = False,
        config: dict[str, object] | None = None,
        seed: int | None = None,
    ) -> Accepted:
        """Upload a task, streamed from `archive` (which is read again from its start if the request must be)."""
        form: dict[str, Any] = {"name": name, "extend": "true" if extend else "false"}
        if template is not None:
            form["template"] = template
        if config:
            form["config"] = json.dumps(config)
        if seed is not None:
            form["seed"] = str(seed)
        return cast(
            Accepted,
            self._json(
                "POST",
                "/v1/tasks",
                data=form,
                files={"archive": (filename, archive, "application/octet-stream")},
                headers={"Idempotency-Key": uuid.uuid4().hex},  # so that a second attempt cannot start a second job
                timeout=httpx.Timeout(INTAKE_TIMEOUT_S, connect=5.0),
            ),
        )

    def jobs(self) -> list[Job]:
        """All jobs that the service remembers."""
        return cast(list[Job], self._json("GET", "/v1/jobs")["jobs"])

    def job(self, job_id: str) -> Job:
        """One job."""
        return cast(Job, self._json("GET", f"/v1/jobs/{_segment(job_id)}"))

    def cancel(self, job_id: str) -> Job:
        """Ask a job to stop; it does within one step."""
        return cast(Job, self._json("DELETE", f"/v1/jobs/{_segment(job_id)}"))

    def follow(self, job_id: str, *, poll_s: float = 1.0) -> Iterator[Job]:
        """Yield the job now and after every change, ending with its terminal state.

        Server-sent events where they flow; whenever the stream breaks, one poll and another try.
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
        """The lineage, what is current and what is served."""
        return cast(Versions, self._json("GET", "/v1/versions"))

    def version(self, version_id: str) -> dict[str, Any]:
        """The manifest of one version."""
        return self._json("GET", f"/v1/versions/{_segment(version_id)}")

    def classes(self) -> Classes:
        """The classes that are served."""
        return cast(Classes, self._json("GET", "/v1/classes"))

    def rollback(self, version_id: str | None = None, *, reason: str) -> Moved:
        """Serve `version_id` again, or the parent of the current version."""
        return self._move("/v1/admin/rollback", version_id, reason)

    def promote(self, version_id: str, *, reason: str) -> Moved:
        """Serve `version_id`."""
        return self._move("/v1/admin/promote", version_id, reason)

    def _move(self, route: str, version_id: str | None, reason: str) -> Moved:
        body = {"version_id": version_id, "reason": reason}
        return cast(Moved, self._json("POST", route, json=body, timeout=httpx.Timeout(SWAP_TIMEOUT_S, connect=5.0)))

    def _events(self, job_id: str) -> Iterator[Job]:
        """The job's event stream until it ends or breaks; nothing if it cannot be had."""
        try:
            with self._http.stream("GET", f"/v1/jobs/{_segment(job_id)}/events") as response:
                if response.status_code == httpx.codes.OK:
                    for data in sse_data(response.iter_lines()):
                        yield cast(Job, json.loads(data))
        except (httpx.TransportError, httpx.StreamError, json.JSONDecodeError):
            return

    def _json(self, method: str, route: str, **request: Any) -> dict[str, Any]:
        response = self._send(method, route, **request)
        try:
            body = response.json()
        except ValueError as error:
            raise ApiError(response.status_code, f"{self.url}{route} did not answer with JSON.") from error
        if not isinstance(body, dict):
            raise ApiError(response.status_code, f"{self.url}{route} answered {type(body).__name__}, not an object.")
        return body

    def _send(self, method: str, route: str, **request: Any) -> httpx.Response:
        """Send, again where that may help, and turn what remains wrong into our errors."""
        for attempt in range(1, self._attempts + 1):
            last = attempt == self._attempts
            try:
                response = self._http.request(method, route, **request)
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                if last:
                    raise ServiceUnreachableError(
                        f"Nothing answers at {self.url}; start the service with `keepsight up`, or name another "
                        "address with --url or KEEPSIGHT_URL."
                    ) from error
                self._sleep(0.1 * 2**attempt)
                continue
            except httpx.TimeoutException as error:
                raise ServiceUnreachableError(f"{self.url} did not answer {method} {route} in time.") from error
            except (httpx.TransportError, httpx.InvalidURL) as error:
                reason = str(error) or type(error).__name__
                raise ServiceUnreachableError(
                    f"The connection to {self.url} broke during {method} {route} ({reason})."
                ) from error
            if response.is_success:
                return response
            if response.status_code not in RETRY_STATUSES or last:
                raise api_error(response)
            self._sleep(retry_after_s(response, default=0.25 * 2**attempt))
        raise AssertionError("the last attempt returns or raises")


def retry_after_s(response: httpx.Response, *, default: float) -> float:
    """Seconds to wait before another try: `Retry-After` if it is a number, never more than MAX_RETRY_WAIT_S."""
    try:
        wait = float(response.headers.get("Retry-After", default))
    except ValueError:  # an HTTP date
        wait = default
    return min(max(wait, 0.0), MAX_RETRY_WAIT_S)


def api_error(response: httpx.Response) -> ApiError:
    """The error that a response reports, as one sentence."""
    try:
        problem = response.json()
    except ValueError:
        problem = None
    if not isinstance(problem, dict):
        problem = {}
    detail = problem.get("detail") or problem.get("title")
    if not isinstance(detail, str):
        detail = f"The service answered {response.status_code} {response.reason_phrase}"
    sentence = detail.rstrip()
    if not sentence.endswith((".", "!", "?")):
        sentence += "."
    if response.status_code in (401, 403):
        sentence += " Give a key with --api-key or KEEPSIGHT_API_KEY."
    return ApiError(response.status_code, sentence, problem=problem)


def sse_data(lines: Iterator[str]) -> Iterator[str]:
    """The `data` of each server-sent event that has any (comments and pings have none)."""
    data: list[str] = []
    for line in lines:
        if line.startswith("data:"):
            data.append(line[5:].removeprefix(" "))
        elif not line and data:
            yield "\n".join(data)
            data = []


def read_image(path: Path) -> Image:
    """A file as `classify` takes it."""
    return str(path), path.read_bytes()


def _segment(identifier: str) -> str:
    return quote(identifier, safe="")

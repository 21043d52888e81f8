"""An upload's work ends with its client and its time, and leaves nothing; a job that is queued stays."""

from __future__ import annotations

import errno
import http.client
import threading
from collections.abc import Callable, Mapping
from typing import Any

import httpx
import pytest
from starlette.testclient import TestClient

import app.intake.submission
import app.intake.take_in
from app.settings import Settings
from exchange.contracts import JobState
from exchange.jobs import Jobs
from exchange.notes import Note, accept
from exchange.spool import Spool
from segp_cl.data.decoding import check_image
from tests.waiting import wait_until

Archive = Callable[[Mapping[str, int]], bytes]


class Slow:
    """Stands in for the decoder: takes its time for every image."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.images = 0
        self.begun = threading.Event()
        self.pause = threading.Event()
        monkeypatch.setattr(app.intake.take_in, "check_image", self._check)

    def _check(self, data: bytes, *, max_pixels: int) -> None:
        self.images += 1
        self.begun.set()
        self.pause.wait(0.1)
        check_image(data, max_pixels=max_pixels)


def send_and_leave(url: str, data: bytes, when: Callable[[], object]) -> None:
    """Upload an archive, and hang up as soon as `when` returns."""
    body = httpx.Request("POST", url, files={"archive": data}, data={"name": "animals"})
    leaving = http.client.HTTPConnection(url.removeprefix("http://"))
    leaving.request("POST", "/v1/tasks", body.read(), {"Content-Type": body.headers["content-type"]})
    when()
    leaving.close()


def test_an_upload_ends_when_its_client_hangs_up_and_leaves_nothing(
    configure: Callable[..., Settings],
    listen: Callable[[Settings], str],
    archive: Archive,
    redis_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = configure(intake_threads=1)
    url, spool, slow = listen(settings), Spool(settings.spool), Slow(monkeypatch)
    before = len(Jobs(redis_url).list())
    send_and_leave(url, archive({"cat": 100, "dog": 100}), lambda: slow.begun.wait(20))
    wait_until(lambda: list(spool.root.iterdir()) == [])
    seen = slow.images
    assert seen < 200
    slow.pause.set()
    answer = httpx.post(f"{url}/v1/tasks", files={"archive": archive({"fox": 2})}, data={"name": "more"}, timeout=30)
    assert answer.status_code == 202  # the only place is free
    assert slow.images < seen + 5
    assert len(Jobs(redis_url).list()) == before + 1


def test_a_job_that_was_queued_when_its_client_hung_up_is_kept(
    configure: Callable[..., Settings],
    listen: Callable[[Settings], str],
    archive: Archive,
    redis_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = configure()
    url, spool = listen(settings), Spool(settings.spool)
    queueing, left = threading.Event(), threading.Event()
    queued = list[str]()

    def slowly(jobs: Jobs, spool: Spool, note: Note) -> None:
        queueing.set()
        assert left.wait(20)
        accept(jobs, spool, note)
        queued.append(note.record.job_id)

    monkeypatch.setattr(app.intake.submission, "accept", slowly)
    send_and_leave(url, archive({"cat": 2}), lambda: queueing.wait(20))
    left.set()
    wait_until(lambda: bool(queued))
    assert httpx.get(f"{url}/v1/jobs/{queued[0]}").json()["state"] == JobState.QUEUED.value
    assert len(spool.read(queued[0]).files) == 2


def test_an_upload_that_takes_too_long_is_given_up_and_leaves_nothing(
    configure: Callable[..., Settings],
    serve: Callable[..., TestClient],
    archive: Archive,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = configure(upload_timeout_s=1.0)
    client, slow = serve(settings), Slow(monkeypatch)
    answer = client.post("/v1/tasks", files={"archive": archive({"cat": 300})}, data={"name": "animals"})
    assert answer.status_code == 504
    assert answer.json()["type"] == "urn:keepsight:problem:deadline-exceeded"
    assert "within 1 s" in answer.json()["detail"]
    assert slow.images < 300
    assert list(Spool(settings.spool).root.iterdir()) == []


@pytest.mark.parametrize(
    ("number", "problem", "status"),
    [
        (errno.ENOSPC, "spool-full", 507),
        (errno.EDQUOT, "spool-full", 507),
        (errno.EROFS, "spool-unusable", 503),
        (errno.EFBIG, "spool-unusable", 503),
        (errno.EIO, "spool-unusable", 503),
        (errno.EMFILE, "spool-unusable", 503),
    ],
)
def test_a_spool_that_cannot_be_written_is_told_wherever_it_shows(
    configure: Callable[..., Settings],
    serve: Callable[..., TestClient],
    archive: Archive,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    problem: str,
    status: int,
) -> None:
    settings = configure()
    client = serve(settings)

    def full(*_: Any, **__: Any) -> Any:
        raise OSError(number, "No")

    for where in (
        "app.intake.receive.tempfile.TemporaryFile",
        "exchange.spool.Spool.create",
        "exchange.spool.SpoolWriter.add",
        "exchange.spool.SpoolWriter.close",
        "app.intake.submission.accept",
    ):
        with monkeypatch.context() as patched:
            patched.setattr(where, full)
            answer = client.post("/v1/tasks", files={"archive": archive({"cat": 2})}, data={"name": "animals"})
        assert (answer.status_code, answer.json()["type"]) == (status, f"urn:keepsight:problem:{problem}"), where
        assert answer.headers["retry-after"] == "60"
        assert list(Spool(settings.spool).root.iterdir()) == []

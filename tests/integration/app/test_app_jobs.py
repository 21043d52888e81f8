from __future__ import annotations

import json
import queue
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from starlette.testclient import TestClient
from starlette.types import Message, Receive, Scope, Send

from app.settings import Settings
from exchange.contracts import InstantOutcome, JobError, JobProgress, JobState, UpdateOutcome, utc_now
from exchange.jobs import Jobs
from exchange.spool import Spool

WAIT_S = 30.0


@pytest.fixture
def jobs(redis_url: str) -> Jobs:
    return Jobs(redis_url)


@pytest.fixture
def job_id(client: TestClient, archive: Callable[[Mapping[str, int]], bytes]) -> str:
    """A queued job."""
    response = client.post("/v1/tasks", files={"archive": archive({"cat": 1})}, data={"name": "animals"})
    return str(response.json()["job_id"])


def progress(step: int) -> JobProgress:
    return JobProgress(
        phase="train",
        step=step,
        steps=3,
        losses={"ce": 0.5},
        loss_history={"ce": ((0, 0.75), (step, 0.5))},
        eta_s=1.5,
        elapsed_s=2,
        updated_at=utc_now(),
    )


def events_of(text: str) -> list[tuple[str, Any]]:
    blocks = [block for block in text.replace("\r\n", "\n").split("\n\n") if "event:" in block]
    lines = [dict(line.split(": ", 1) for line in block.split("\n")) for block in blocks]
    return [(line["event"], json.loads(line["data"])) for line in lines]


class Wire:
    """A client whose answers can be read while they are under way."""

    def __init__(self, client: TestClient) -> None:
        self._sent: queue.Queue[bytes] = queue.Queue()
        self._heard = ""
        app = client.app

        async def listening(scope: Scope, receive: Receive, send: Send) -> None:
            async def tell(message: Message) -> None:
                self._sent.put(message.get("body", b""))
                await send(message)

            await app(scope, receive, tell)

        self.client = TestClient(listening, base_url=str(client.base_url))
        self.client.portal = client.portal

    def get_while(self, url: str, act: Callable[[], None]) -> str:
        """The whole answer to a request; `act` runs meanwhile."""
        actor = threading.Thread(target=act)
        actor.start()
        text = self.client.get(url).text
        actor.join()
        return text

    def wait_for(self, text: str, times: int = 1) -> None:
        """Wait until `text` has been sent so often since this was last called."""
        deadline = time.monotonic() + WAIT_S
        while self._heard.count(text) < times:
            self._heard += self._sent.get(timeout=max(0.0, deadline - time.monotonic())).decode()
        self._heard = ""


def test_a_running_job_shows_its_progress_and_a_finished_one_its_result(
    client: TestClient, jobs: Jobs, job_id: str
) -> None:
    assert jobs.claim(job_id, owner="w") is None
    assert jobs.save_progress(job_id, progress(1), owner="w")
    view = client.get(f"/v1/jobs/{job_id}").json()
    assert (view["state"], view["attempts"]) == ("running", 1)
    shown = {"phase": "train", "step": 1, "steps": 3, "losses": {"ce": 0.5}, "eta_s": 1.5, "elapsed_s": 2.0}
    assert view["progress"] == {**shown, "loss_history": {"ce": [[0, 0.75], [1, 0.5]]}}
    assert client.get("/v1/jobs").json()["jobs"][0]["progress"] == {**shown, "loss_history": {}}
    outcome = UpdateOutcome(version_id="000002-0123456789ab", promoted=False, not_promoted_because="someone moved it")
    jobs.finish(job_id, JobState.SUCCEEDED, outcome=outcome)
    view = client.get(f"/v1/jobs/{job_id}").json()
    assert view["state"] == "succeeded"
    assert view["progress"]["loss_history"] == {"ce": [[0, 0.75], [1, 0.5]]}, "it can still be looked at"
    assert view["result"]["version_id"] == "000002-0123456789ab"
    assert view["result"]["not_promoted_because"] == "someone moved it"
    assert view["finished_at"]


def test_a_job_says_what_of_it_is_in_service(client: TestClient, jobs: Jobs, job_id: str) -> None:
    def seen() -> tuple[object, object]:
        view = client.get(f"/v1/jobs/{job_id}").json()
        return view["serving"], (view["instant"] or {}).get("version_id")

    assert seen() == (None, None)
    assert jobs.save_instant(job_id, InstantOutcome(version_id="000002-0123456789ab", promoted=True, at=utc_now()))
    assert seen() == ("served_instantly", "000002-0123456789ab")
    jobs.claim(job_id, owner="w")
    jobs.finish(job_id, JobState.SUCCEEDED, outcome=UpdateOutcome(version_id="000003-0123456789ab", promoted=True))
    assert seen() == ("trained", "000002-0123456789ab")


@pytest.mark.parametrize(("version", "promoted"), [("000002-0123456789ab", True), ("000003-0123456789ab", False)])
def test_a_job_whose_training_brought_nothing_is_served_by_its_instant_version(
    client: TestClient, jobs: Jobs, job_id: str, version: str, promoted: bool
) -> None:
    jobs.save_instant(job_id, InstantOutcome(version_id="000002-0123456789ab", promoted=True, at=utc_now()))
    jobs.claim(job_id, owner="w")
    jobs.finish(job_id, JobState.SUCCEEDED, outcome=UpdateOutcome(version_id=version, promoted=promoted))
    assert client.get(f"/v1/jobs/{job_id}").json()["serving"] == "served_instantly"


def test_a_failed_job_carries_its_error_as_a_problem(client: TestClient, jobs: Jobs, job_id: str) -> None:
    jobs.claim(job_id, owner="w")
    jobs.finish(job_id, JobState.FAILED, error=JobError(kind="ClassExistsError", message="the class is known"))
    error = client.get(f"/v1/jobs/{job_id}").json()["error"]
    assert (error["detail"], error["kind"]) == ("the class is known", "ClassExistsError")
    assert error["type"] == "urn:keepsight:problem:job-failed"


@pytest.mark.parametrize("path", ["", "/events"])
@pytest.mark.parametrize("job", ["0" * 32, "nope", "..%2f..%2fetc"])
def test_an_unknown_job_is_not_found(client: TestClient, job: str, path: str) -> None:
    response = client.get(f"/v1/jobs/{job}{path}")
    assert response.status_code == 404
    assert response.headers["content-type"] == "application/problem+json"


def test_events_follow_a_job_to_its_end(client: TestClient, jobs: Jobs, job_id: str) -> None:
    wire = Wire(client)

    def work() -> None:
        wire.wait_for('"state":"queued"')
        jobs.claim(job_id, owner="w")
        wire.wait_for('"state":"running"')
        for step in (1, 2, 3):
            jobs.save_progress(job_id, progress(step), owner="w")
            wire.wait_for(f'"step":{step}')
        jobs.finish(job_id, JobState.CANCELLED)

    events = events_of(wire.get_while(f"/v1/jobs/{job_id}/events", work))
    assert [view["state"] for kind, view in events if kind == "state"] == ["queued", "running", "cancelled"]
    assert [view["progress"]["step"] for kind, view in events if kind == "progress"] == [1, 2, 3]
    assert events[-1][1] == client.get(f"/v1/jobs/{job_id}").json()


def test_events_of_a_finished_job_are_its_final_state_alone(client: TestClient, jobs: Jobs, job_id: str) -> None:
    jobs.finish(job_id, JobState.CANCELLED)
    assert [(kind, view["state"]) for kind, view in events_of(client.get(f"/v1/jobs/{job_id}/events").text)] == [
        ("state", "cancelled")
    ]


def test_a_quiet_stream_has_heartbeats(
    configure: Callable[..., Settings],
    serve: Callable[..., TestClient],
    client: TestClient,
    jobs: Jobs,
    job_id: str,
) -> None:
    wire = Wire(serve(configure(events_heartbeat_s=0.1)))

    def end_after_two() -> None:
        wire.wait_for(": ping", times=2)
        jobs.finish(job_id, JobState.CANCELLED)

    assert wire.get_while(f"/v1/jobs/{job_id}/events", end_after_two).count(": ping") >= 2


def test_cancelling_a_queued_job_ends_it_and_purges_its_images(
    client: TestClient, configure: Callable[..., Settings], jobs: Jobs, job_id: str
) -> None:
    spool = Spool(configure().spool)
    assert len(list(spool.root.iterdir())) == 1
    response = client.delete(f"/v1/jobs/{job_id}")
    assert (response.status_code, response.json()["state"]) == (202, "cancelled")
    assert list(spool.root.iterdir()) == []
    assert client.delete(f"/v1/jobs/{job_id}").status_code == 202


def test_cancelling_a_running_job_asks_its_worker_to_stop(client: TestClient, jobs: Jobs, job_id: str) -> None:
    jobs.claim(job_id, owner="w")
    response = client.delete(f"/v1/jobs/{job_id}")
    assert (response.status_code, response.json()["state"]) == (202, "running")
    assert response.json()["cancel_requested"] is True
    assert jobs.cancel_requested(job_id)


def test_a_job_that_is_over_cannot_be_cancelled(client: TestClient, jobs: Jobs, job_id: str) -> None:
    jobs.claim(job_id, owner="w")
    jobs.finish(job_id, JobState.FAILED, error=JobError(kind="X", message="y"))
    response = client.delete(f"/v1/jobs/{job_id}")
    assert (response.status_code, response.json()["state"]) == (409, "failed")
    assert client.delete("/v1/jobs/" + "0" * 32).status_code == 404


def test_a_client_that_comes_back_is_not_sent_what_it_has_seen(client: TestClient, jobs: Jobs, job_id: str) -> None:
    jobs.finish(job_id, JobState.CANCELLED)
    text = client.get(f"/v1/jobs/{job_id}/events", headers={"Last-Event-ID": "older"}).text
    assert [view["state"] for _, view in events_of(text)] == ["cancelled"]
    last = next(line.removeprefix("id: ") for line in text.splitlines() if line.startswith("id:"))
    assert client.get(f"/v1/jobs/{job_id}/events", headers={"Last-Event-ID": last}).status_code == 204

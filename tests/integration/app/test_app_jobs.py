from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from starlette.testclient import TestClient

from app.settings import Settings
from exchange.contracts import JobError, JobProgress, JobState, UpdateOutcome, utc_now
from exchange.jobs import Jobs
from exchange.spool import Spool


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
        phase="train", step=step, steps=3, losses={"ce": 0.5}, eta_s=1.5, elapsed_s=2, updated_at=utc_now()
    )


def events_of(text: str) -> list[tuple[str, Any]]:
    blocks = [block for block in text.replace("\r\n", "\n").split("\n\n") if "event:" in block]
    lines = [dict(line.split(": ", 1) for line in block.split("\n")) for block in blocks]
    return [(line["event"], json.loads(line["data"])) for line in lines]


def test_a_running_job_shows_its_progress_and_a_finished_one_its_result(
    client: TestClient, jobs: Jobs, job_id: str
) -> None:
    assert jobs.claim(job_id, owner="w") is None
    assert jobs.save_progress(job_id, progress(1), owner="w")
    view = client.get(f"/v1/jobs/{job_id}").json()
    assert (view["state"], view["attempts"]) == ("running", 1)
    assert view["progress"] == {
        "phase": "train", "step": 1, "steps": 3, "losses": {"ce": 0.5}, "eta_s": 1.5, "elapsed_s": 2.0,
    }  # fmt: skip
    outcome = UpdateOutcome(version_id="000002-0123456789ab", promoted=False, not_promoted_because="someone moved it")
    jobs.finish(job_id, JobState.SUCCEEDED, outcome=outcome)
    view = client.get(f"/v1/jobs/{job_id}").json()
    assert view["state"] == "succeeded"
    assert view["result"]["version_id"] == "000002-0123456789ab"
    assert view["result"]["not_promoted_because"] == "someone moved it"
    assert view["finished_at"]


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
    def work() -> None:
        time.sleep(0.2)
        jobs.claim(job_id, owner="w")
        for step in (1, 2, 3):
            time.sleep(0.1)
            jobs.save_progress(job_id, progress(step), owner="w")
        time.sleep(0.1)
        jobs.finish(job_id, JobState.CANCELLED)

    worker = threading.Thread(target=work)
    worker.start()
    response = client.get(f"/v1/jobs/{job_id}/events")
    worker.join()
    assert response.headers["content-type"].startswith("text/event-stream")
    events = events_of(response.text)
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
    quiet = serve(configure(events_heartbeat_s=0.1))
    threading.Timer(0.6, lambda: jobs.finish(job_id, JobState.CANCELLED)).start()
    assert quiet.get(f"/v1/jobs/{job_id}/events").text.count(": ping") >= 2


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

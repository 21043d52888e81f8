"""The client against a service in a function."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from keepsight.client import MAX_RETRY_WAIT_S, Client, retry_after_s, sse_data
from keepsight.errors import ApiError, ServiceUnreachableError

MakeJob = Callable[..., dict[str, Any]]
VERSIONS: dict[str, Any] = {"current": None, "serving": None, "versions": []}


def test_key_is_sent_as_a_bearer_token(service: Any) -> None:
    service.script["GET /v1/versions"] = VERSIONS
    service.client(api_key="ks_secret").versions()
    assert service.requests[0].headers["authorization"] == "Bearer ks_secret"


def test_turned_away_requests_are_sent_again_after_the_time_that_was_asked_for(service: Any) -> None:
    busy = service.problem(429, "the queue is full", **{"retry-after": "3"})
    service.script["GET /v1/versions"] = [busy, service.problem(503, "not yet"), VERSIONS]
    assert service.client().versions() == VERSIONS
    assert service.slept == [3.0, 1.0]


def test_a_service_that_stays_busy_is_given_up_with_its_own_words(service: Any) -> None:
    service.script["GET /v1/versions"] = service.problem(503, "the broker is away")
    with pytest.raises(ApiError, match=r"^the broker is away\.$") as caught:
        service.client(attempts=3).versions()
    assert caught.value.status == 503
    assert len(service.requests) == 3


@pytest.mark.parametrize("status", [400, 404, 409, 413, 422, 500])
def test_other_errors_are_not_tried_again(service: Any, status: int) -> None:
    service.script["GET /v1/jobs"] = service.problem(status, "no")
    with pytest.raises(ApiError):
        service.client().jobs()
    assert len(service.requests) == 1


def test_a_service_that_is_down_is_reported_with_how_to_start_it(service: Any) -> None:
    service.script["GET /v1/jobs"] = httpx.ConnectError("refused")
    with pytest.raises(ServiceUnreachableError, match=r"http://fake.*keepsight up.*KEEPSIGHT_URL"):
        service.client(attempts=2).jobs()
    assert len(service.requests) == 2


def test_connecting_is_tried_again(service: Any) -> None:
    service.script["GET /v1/jobs"] = [httpx.ConnectError("refused"), {"jobs": []}]
    assert service.client().jobs() == []


def test_a_broken_connection_is_not_retried_because_the_request_may_have_arrived(service: Any) -> None:
    service.script["POST /v1/admin/rollback"] = httpx.ReadError("reset")
    with pytest.raises(ServiceUnreachableError, match=r"broke during POST /v1/admin/rollback"):
        service.client().rollback(reason="x")
    assert len(service.requests) == 1


def test_a_slow_service_is_reported_as_slow(service: Any) -> None:
    service.script["GET /v1/jobs"] = httpx.ReadTimeout("slow")
    with pytest.raises(ServiceUnreachableError, match="did not answer GET /v1/jobs in time"):
        service.client().jobs()


def test_missing_rights_name_the_option_that_gives_them(service: Any) -> None:
    service.script["GET /v1/jobs"] = service.problem(401, "a key is needed")
    with pytest.raises(ApiError, match=r"a key is needed\. Give a key with --api-key"):
        service.client().jobs()


def test_an_error_page_that_is_not_json_still_makes_a_sentence(service: Any) -> None:
    service.script["GET /v1/jobs"] = httpx.Response(502, text="<html>bad gateway</html>")
    with pytest.raises(ApiError, match=r"^The service answered 502 Bad Gateway\.$"):
        service.client().jobs()


@pytest.mark.parametrize("body", ["<html>", "[1]"])
def test_an_answer_that_is_no_json_object_is_an_error(service: Any, body: str) -> None:
    service.script["GET /v1/versions"] = httpx.Response(200, text=body)
    with pytest.raises(ApiError, match="/v1/versions"):
        service.client().versions()


def test_classify_sends_images_and_choices_as_one_form(service: Any) -> None:
    service.script["POST /v1/classify"] = {"model_version": "v", "results": []}
    service.client().classify(
        [("a.png", b"AAA"), ("b.png", b"BBB")], top_k=2, path="text", labels=["cat", "dog"], template="a {}."
    )
    body = service.requests[0].content
    assert body.count(b'name="images"; filename=') == 2
    assert b"AAA" in body
    assert body.count(b'name="labels"') == 2
    assert b'name="template"\r\n\r\na {}.' in body
    assert b'name="top_k"\r\n\r\n2' in body


def test_a_repeated_upload_starts_from_the_beginning_under_the_same_idempotency_key(service: Any) -> None:
    accepted = {"job_id": "j1", "location": "/v1/jobs/j1", "validation": {}}
    service.script["POST /v1/tasks"] = [service.problem(503, "wait"), httpx.Response(202, json=accepted)]
    client = service.client()
    assert client.teach(io.BytesIO(b"T" * 1000), "t.tar", name="t", config={"epochs": 1}, seed=4)["job_id"] == "j1"
    first, second = service.requests
    assert second.content.count(b"T" * 1000) == 1
    assert first.headers["idempotency-key"] == second.headers["idempotency-key"]
    assert b'{"epochs": 1}' in second.content
    assert b'name="seed"\r\n\r\n4' in second.content


def test_two_uploads_have_different_idempotency_keys(service: Any) -> None:
    service.script["POST /v1/tasks"] = {"job_id": "j", "location": "", "validation": {}}
    for _ in range(2):
        service.client().teach(io.BytesIO(b"T"), "t.tar", name="t")
    assert service.requests[0].headers["idempotency-key"] != service.requests[1].headers["idempotency-key"]


def test_identifiers_cannot_reach_other_routes(service: Any) -> None:
    with pytest.raises(ApiError):
        service.client().job("../versions?x=1")
    assert service.requests[0].url.raw_path == b"/v1/jobs/..%2Fversions%3Fx%3D1"


def test_follow_yields_every_event_and_ends_with_the_terminal_state(
    service: Any, make_job: MakeJob, make_finished_job: MakeJob
) -> None:
    running = make_job(state="running")
    stream = f": ping\n\nevent: progress\ndata: {json.dumps(running)}\n\ndata: {json.dumps(make_finished_job())}\n\n"
    service.script["GET /v1/jobs/j1"] = make_job()
    service.script["GET /v1/jobs/j1/events"] = httpx.Response(200, text=stream)
    assert [job["state"] for job in service.client().follow("j1")] == ["queued", "running", "succeeded"]


def test_follow_polls_when_the_stream_breaks(service: Any, make_job: MakeJob, make_finished_job: MakeJob) -> None:
    service.script["GET /v1/jobs/j1"] = [make_job(), make_job(state="running"), make_finished_job()]
    service.script["GET /v1/jobs/j1/events"] = httpx.ReadError("gone")
    assert [job["state"] for job in service.client().follow("j1")] == ["queued", "running", "succeeded"]
    assert len(service.slept) == 2


def test_events_may_span_lines_and_have_comments() -> None:
    lines = ["retry: 5", ": comment", "", "data: {", "data:}", "", "event: x", ""]
    assert list(sse_data(iter(lines))) == ["{\n}"]


@pytest.mark.parametrize(
    ("header", "wait"), [("2", 2.0), ("-5", 0.0), ("86400", MAX_RETRY_WAIT_S), ("Wed, 21 Oct 2026 07:28:00 GMT", 0.5)]
)
def test_retry_after_is_bounded(header: str, wait: float) -> None:
    assert retry_after_s(httpx.Response(503, headers={"retry-after": header}), default=0.5) == wait


def test_ready_is_false_for_a_service_that_is_down_or_not_ready(service: Any) -> None:
    service.script["GET /readyz"] = [httpx.ConnectError("no"), service.problem(503, "loading"), {"status": "ready"}]
    client = service.client()
    assert [client.ready(), client.ready(), client.ready()] == [False, False, True]


@pytest.mark.parametrize("url", ["http://[::1", "http://host:port"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ServiceUnreachableError, match="is not an address"):
        Client(url)


def test_an_address_without_a_scheme_is_refused() -> None:
    with Client("localhost:8000") as client, pytest.raises(ServiceUnreachableError, match="localhost:8000"):
        client.jobs()

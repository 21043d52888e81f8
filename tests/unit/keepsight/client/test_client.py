"""Both clients against a service in a function: whatever holds for one holds for the other."""

from __future__ import annotations

import asyncio
import base64
import inspect
import io
import json
import os
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

import keepsight
import keepsight.client
from keepsight.client import Client
from keepsight.client.async_client import AsyncClient
from keepsight.client.errors import ApiError, ServiceUnreachableError, UploadError
from keepsight.client.events import JobEvents
from keepsight.client.retries import Retries

MakeJob = Callable[..., dict[str, Any]]
Connect = Callable[..., Any]
VERSIONS: dict[str, Any] = {"current": None, "serving": None, "versions": []}
ACCEPTED = {"job_id": "j1", "location": "/v1/jobs/j1", "validation": {}}
ANSWER: dict[str, Any] = {"model_version": "v", "path": "fused", "results": []}


class Waiting:
    """An AsyncClient whose methods wait, as a Client's do."""

    def __init__(self, client: AsyncClient, runner: asyncio.Runner) -> None:
        self._client = client
        self._runner = runner

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._client, name)
        run = self._all if inspect.isasyncgenfunction(method) else self._one
        return partial(run, method)

    def _one(self, method: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        return self._runner.run(method(*arguments, **options))

    def _all(self, method: Callable[..., Any], *arguments: Any, **options: Any) -> list[Any]:
        async def collect() -> list[Any]:
            return [item async for item in method(*arguments, **options)]

        return self._runner.run(collect())


@pytest.fixture(params=["Client", "AsyncClient"])
def connect(request: pytest.FixtureRequest, service: Any) -> Iterator[Connect]:
    """Makes clients of the service, of the one kind and then of the other; they end with the test."""
    with asyncio.Runner() as runner:
        made: list[Any] = []

        def make(**changes: Any) -> Any:
            if request.param == "Client":
                made.append(service.client(**changes))
            else:
                made.append(Waiting(service.async_client(**changes), runner))
            return made[-1]

        yield make
        for client in made:
            client.close()


def test_key_is_sent_as_a_bearer_token(service: Any, connect: Connect) -> None:
    service.script["GET /v1/versions"] = VERSIONS
    connect(api_key="ks_secret").versions()
    assert service.requests[0].headers["authorization"] == "Bearer ks_secret"


def test_turned_away_requests_are_sent_again_after_the_time_that_was_asked_for(service: Any, connect: Connect) -> None:
    dated = {"retry-after": "Wed, 21 Oct 2015 07:28:09 GMT", "date": "Wed, 21 Oct 2015 07:28:00 GMT"}
    service.script["GET /v1/versions"] = [
        service.problem(429, "the queue is full", **{"retry-after": "3"}),
        service.problem(503, "not yet"),
        service.problem(503, "not yet", **dated),
        VERSIONS,
    ]
    assert connect().versions() == VERSIONS
    assert service.slept == [3.0, 0.5, 9.0]


def test_a_service_that_stays_busy_is_given_up_with_its_own_words(service: Any, connect: Connect) -> None:
    service.script["GET /v1/versions"] = service.problem(503, "the broker is away")
    with pytest.raises(ApiError, match=r"^the broker is away$") as caught:
        connect(retries=Retries(attempts=3)).versions()
    assert caught.value.status == 503
    assert len(service.requests) == 3
    assert len(service.slept) == 2


def test_a_service_that_asks_for_more_than_the_client_waits_is_given_up_at_once(service: Any, connect: Connect) -> None:
    service.script["GET /v1/versions"] = service.problem(503, "the key file is lost", **{"retry-after": "60"})
    with pytest.raises(ApiError, match="the key file is lost"):
        connect().versions()
    assert service.slept == []


@pytest.mark.parametrize("status", [400, 404, 409, 413, 422, 500])
def test_other_errors_are_not_tried_again(service: Any, connect: Connect, status: int) -> None:
    service.script["GET /v1/jobs"] = service.problem(status, "no")
    with pytest.raises(ApiError) as caught:
        connect().jobs()
    assert caught.value.problem["detail"] == "no"
    assert len(service.requests) == 1


def test_a_service_that_is_down_is_reported(service: Any, connect: Connect) -> None:
    service.script["GET /v1/jobs"] = httpx.ConnectError("refused")
    with pytest.raises(ServiceUnreachableError, match=r"^nothing answers at http://fake$"):
        connect(retries=Retries(attempts=2)).jobs()
    assert len(service.requests) == 2


def test_connecting_is_tried_again(service: Any, connect: Connect) -> None:
    service.script["GET /v1/jobs"] = [httpx.ConnectError("refused"), httpx.ConnectTimeout("slow"), {"jobs": []}]
    assert connect().jobs() == []
    assert service.slept == [0.25, 0.5]


def test_a_broken_connection_is_not_retried_because_the_request_may_have_arrived(
    service: Any, connect: Connect
) -> None:
    service.script["POST /v1/admin/rollback"] = httpx.ReadError("reset")
    with pytest.raises(ServiceUnreachableError, match=r"broke during POST /v1/admin/rollback"):
        connect().rollback(reason="x")
    assert len(service.requests) == 1


def test_a_slow_service_is_reported_as_slow(service: Any, connect: Connect) -> None:
    service.script["GET /v1/jobs"] = httpx.ReadTimeout("slow")
    with pytest.raises(ServiceUnreachableError, match="did not answer GET /v1/jobs in time"):
        connect().jobs()


def test_missing_rights_are_told_without_words_of_the_command_line(service: Any, connect: Connect) -> None:
    service.script["GET /v1/jobs"] = service.problem(401, "a key is needed")
    with pytest.raises(ApiError, match=r"^a key is needed$"):
        connect().jobs()


def test_an_error_page_that_is_not_json_still_makes_a_sentence(service: Any, connect: Connect) -> None:
    service.script["GET /v1/jobs"] = httpx.Response(502, text="<html>bad gateway</html>")
    with pytest.raises(ApiError, match=r"^the service answered 502 Bad Gateway$"):
        connect().jobs()


@pytest.mark.parametrize("body", ["<html>", "[1]"])
def test_an_answer_that_is_no_json_object_is_an_error(service: Any, connect: Connect, body: str) -> None:
    service.script["GET /v1/versions"] = httpx.Response(200, text=body)
    with pytest.raises(ApiError, match="/v1/versions"):
        connect().versions()


def test_classify_sends_images_and_choices_as_one_form(service: Any, connect: Connect, tmp_path: Path) -> None:
    (tmp_path / "c.png").write_bytes(b"CCC")
    service.script["POST /v1/classify"] = ANSWER
    connect().classify(
        [("a.png", b"AAA"), b"BBB", tmp_path / "c.png"],
        top_k=2,
        path="text",
        labels=["cat", "dog"],
        template="a {}.",
        with_classes=True,
        zero_shot="untouched",
        timeout_ms=500,
    )
    body = service.requests[0].content
    for filename, data in ((b"a.png", b"AAA"), (b"image", b"BBB"), (b"c.png", b"CCC")):
        head, _, rest = body.partition(b'name="images"; filename="%s"\r\n' % filename)
        assert head != body
        assert rest.split(b"\r\n")[2] == data
    assert body.count(b'name="labels"') == 2
    assert b'name="with_classes"\r\n\r\ntrue\r\n' in body
    assert b'name="zero_shot"\r\n\r\nuntouched\r\n' in body
    for name, value in ((b"template", b"a {}."), (b"top_k", b"2"), (b"path", b"text"), (b"timeout_ms", b"500")):
        assert b'name="%s"\r\n\r\n%s\r\n' % (name, value) in body


def test_what_is_left_out_is_left_to_the_service(service: Any, connect: Connect) -> None:
    service.script["POST /v1/classify"] = ANSWER
    connect().classify([b"A"])
    for name in (b"labels", b"template", b"timeout_ms"):
        assert b'name="%s"' % name not in service.requests[0].content


def test_a_file_that_is_not_there_is_an_error_of_the_file_system(
    service: Any, connect: Connect, tmp_path: Path
) -> None:
    with pytest.raises(FileNotFoundError):
        connect().classify([tmp_path / "gone.png"])
    assert service.requests == []


def test_embeddings_are_asked_for_texts_and_images_in_their_order(
    service: Any, connect: Connect, tmp_path: Path
) -> None:
    (tmp_path / "a.png").write_bytes(b"AAA")
    service.script["POST /v1/embeddings"] = {"space": "s"}
    inputs = [tmp_path / "a.png", "a cat.", b"BBB", ("c.png", b"CCC")]
    assert connect().embeddings(inputs, stored_version="000001-aa", timeout_ms=9) == {"space": "s"}
    sent = json.loads(service.requests[0].content)
    assert (sent["stored_version"], sent["timeout_ms"], sent["input"][1]) == ("000001-aa", 9, "a cat.")
    images = [sent["input"][place] for place in (0, 2, 3)]
    assert all(image.startswith("data:image/") for image in images)
    assert [base64.b64decode(image.partition(",")[2]) for image in images] == [b"AAA", b"BBB", b"CCC"]


def test_no_image_is_said_before_anything_is_sent(service: Any, connect: Connect) -> None:
    with pytest.raises(UploadError, match="no image was given"):
        connect().classify([])
    with pytest.raises(UploadError, match="no text or image was given"):
        connect().embeddings([])
    assert service.requests == []


@pytest.mark.parametrize("one", [b"png", "cat.png", Path("cat.png")])
def test_one_image_in_place_of_a_list_is_said(service: Any, connect: Connect, one: Any) -> None:
    with pytest.raises(TypeError, match="expected a list of images, got one of type"):
        connect().classify(one)
    assert service.requests == []


def test_what_a_folder_has_and_is_not_sent_is_in_the_answer(service: Any, connect: Connect, tmp_path: Path) -> None:
    for name in ("cat/1.png", ".DS_Store"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    row = {"path": "cat/@eaDir", "reason": "left by a network drive", "entries": 2}
    service.script["POST /v1/tasks"] = {"job_id": "j1", "validation": {"passed_over": [row], "passed_over_count": 1}}
    validation = connect().teach(tmp_path, name="pets", encoding="gbk")["validation"]
    assert validation["passed_over"] == [{"path": ".DS_Store", "reason": "hidden", "entries": 1}, row]
    assert validation["passed_over_count"] == 2
    assert b'name="encoding"\r\n\r\ngbk' in service.requests[0].content


def test_a_string_is_one_text_to_embed(service: Any, connect: Connect) -> None:
    service.script["POST /v1/embeddings"] = {"space": "s"}
    connect().embeddings("a cat.")
    assert json.loads(service.requests[0].content) == {"input": ["a cat."]}


def test_a_repeated_upload_starts_from_the_beginning_under_the_same_idempotency_key(
    service: Any, connect: Connect
) -> None:
    service.script["POST /v1/tasks"] = [service.problem(503, "wait"), httpx.Response(202, json=ACCEPTED)]
    archive = io.BytesIO(b"T" * 200_000)
    assert connect().teach(archive, "t.tar", name="t", config={"epochs": 1}, seed=4)["job_id"] == "j1"
    first, second = service.requests
    assert first.content.count(b"T" * 200_000) == second.content.count(b"T" * 200_000) == 1
    assert int(second.headers["content-length"]) == len(second.content)
    assert first.headers["idempotency-key"] == second.headers["idempotency-key"]
    assert b'{"epochs": 1}' in second.content
    assert b'name="seed"\r\n\r\n4' in second.content
    assert not archive.closed


def test_two_uploads_have_different_idempotency_keys(service: Any, connect: Connect) -> None:
    service.script["POST /v1/tasks"] = ACCEPTED
    client = connect()
    for _ in range(2):
        client.teach(io.BytesIO(b"T"), name="t")
    assert service.requests[0].headers["idempotency-key"] != service.requests[1].headers["idempotency-key"]


def test_a_folder_is_taught_as_it_stands_in_every_attempt(service: Any, connect: Connect, tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "1.png").write_bytes(b"png")
    service.script["POST /v1/tasks"] = [service.problem(429, "wait"), httpx.Response(202, json=ACCEPTED)]
    connect().teach(tmp_path, name="pets")
    for request in service.requests:
        start = request.content.index(b"cat/1.png")
        with tarfile.open(fileobj=io.BytesIO(request.content[start:]), mode="r:") as tar:
            assert tar.extractfile("cat/1.png").read() == b"png"  # type: ignore[union-attr]
    assert len(service.requests) == 2


def test_an_archive_on_disk_is_sent_whole_and_closed(service: Any, connect: Connect, tmp_path: Path) -> None:
    (tmp_path / "pets.zip").write_bytes(b"Z" * 100_000)
    service.script["POST /v1/tasks"] = ACCEPTED
    connect().teach(tmp_path / "pets.zip", name="pets")  # a file left open would be a warning, and so an error
    assert b"Z" * 100_000 in service.requests[0].content


def test_what_cannot_be_taught_is_refused_before_anything_is_sent(
    service: Any, connect: Connect, tmp_path: Path
) -> None:
    with pytest.raises(UploadError, match="does not exist"):
        connect().teach(tmp_path / "gone", name="pets")
    read, write = os.pipe()
    os.close(write)
    with os.fdopen(read, "rb") as pipe, pytest.raises(ValueError, match="cannot be read again"):
        connect().teach(pipe, name="pets")
    assert service.requests == []


def test_the_async_client_reads_an_upload_off_the_event_loop(service: Any) -> None:
    readers: set[int] = set()

    class Watched(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            readers.add(threading.get_ident())
            return super().read(size)

    async def teach() -> None:
        async with service.async_client() as client:
            await client.teach(Watched(b"T" * 200_000), name="t")

    service.script["POST /v1/tasks"] = ACCEPTED
    asyncio.run(teach())
    assert b"T" * 200_000 in service.requests[0].content
    assert readers
    assert threading.get_ident() not in readers


def test_identifiers_cannot_reach_other_routes(service: Any, connect: Connect) -> None:
    with pytest.raises(ApiError):
        connect().job("../versions?x=1")
    assert service.requests[0].url.raw_path == b"/v1/jobs/..%2Fversions%3Fx%3D1"


def test_follow_yields_every_event_and_ends_with_the_terminal_state(
    service: Any, connect: Connect, make_job: MakeJob, make_finished_job: MakeJob
) -> None:
    running = make_job(state="running")
    stream = f": ping\n\nevent: progress\ndata: {json.dumps(running)}\n\ndata: {json.dumps(make_finished_job())}\n\n"
    service.script["GET /v1/jobs/j1"] = make_job()
    service.script["GET /v1/jobs/j1/events"] = httpx.Response(200, text=stream)
    assert [job["state"] for job in connect().follow("j1")] == ["queued", "running", "succeeded"]
    assert service.slept == []


@pytest.mark.parametrize(
    "stream", [httpx.ReadError("gone"), httpx.Response(404), httpx.Response(200, text="data: {half\n\n")]
)
def test_follow_polls_when_the_stream_breaks(
    service: Any, connect: Connect, make_job: MakeJob, make_finished_job: MakeJob, stream: Any
) -> None:
    service.script["GET /v1/jobs/j1"] = [make_job(), make_job(state="running"), make_finished_job()]
    service.script["GET /v1/jobs/j1/events"] = stream
    assert [job["state"] for job in connect().follow("j1", poll_s=3.0)] == ["queued", "running", "succeeded"]
    assert service.slept == [3.0, 3.0]


def test_events_may_span_lines_and_have_comments() -> None:
    events = JobEvents()
    lines = ["retry: 5", ": comment", "", 'data: {"name":', 'data:"pets"}', "", "event: x", ""]
    jobs = [job for job in map(events.feed, lines) if job]
    assert [job["name"] for job in jobs] == ["pets"]


def test_ready_is_false_for_a_service_that_is_down_or_not_ready(service: Any, connect: Connect) -> None:
    service.script["GET /readyz"] = [httpx.ConnectError("no"), service.problem(503, "loading"), {"status": "ready"}]
    client = connect()
    assert [client.ready(), client.ready(), client.ready()] == [False, False, True]
    assert service.slept == []


@pytest.mark.parametrize("move", ["promote", "rollback"])
def test_a_move_may_say_what_it_expects_to_find(service: Any, connect: Connect, move: str) -> None:
    service.script[f"POST /v1/admin/{move}"] = {"from": "v1", "to": "v2", "serving": "v2"}
    client = connect()
    assert getattr(client, move)("v2", reason="why", expected="v1")["to"] == "v2"
    getattr(client, move)("v2")
    sent = [json.loads(request.content) for request in service.requests]
    assert sent == [{"version_id": "v2", "reason": "why", "expected": "v1"}, {"version_id": "v2", "reason": ""}]


@pytest.mark.parametrize(
    ("method", "arguments", "route"),
    [
        ("job", ("j1",), "GET /v1/jobs/j1"),
        ("cancel", ("j1",), "DELETE /v1/jobs/j1"),
        ("version", ("v1",), "GET /v1/versions/v1"),
        ("classes", (), "GET /v1/classes"),
        ("version_classes", ("v1",), "GET /v1/versions/v1/classes"),
        ("preview_edit", ("delete", ["cat"]), "POST /v1/classes/preview"),
        ("rollout", (), "GET /v1/admin/rollout"),
    ],
)
def test_answers_are_handed_on_as_they_are(
    service: Any, connect: Connect, method: str, arguments: tuple[str, ...], route: str
) -> None:
    service.script[route] = {"new": ["field"]}
    assert getattr(connect(), method)(*arguments) == {"new": ["field"]}


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize("url", ["http://[::1", "http://host:port"])
def test_an_address_that_is_none_is_refused(kind: type[Client] | type[AsyncClient], url: str) -> None:
    with pytest.raises(ServiceUnreachableError, match="is not an address"):
        kind(url)


def test_an_address_without_a_scheme_is_refused() -> None:
    with Client("localhost:8000") as client, pytest.raises(ServiceUnreachableError, match="localhost:8000"):
        client.jobs()


def test_both_clients_have_the_same_methods_with_the_same_parameters_and_answers() -> None:
    def surface(kind: type) -> dict[str, tuple[Any, str]]:
        methods = {name: method for name, method in vars(kind).items() if callable(method) and name[0] != "_"}
        signatures = {name: inspect.signature(method) for name, method in methods.items()}
        return {name: (s.parameters, str(s.return_annotation).removeprefix("Async")) for name, s in signatures.items()}

    assert surface(Client) == surface(AsyncClient)
    assert len(surface(Client)) == 44


def test_the_package_offers_the_clients_without_importing_them_before_they_are_asked_for() -> None:
    assert keepsight.Client is Client
    assert keepsight.AsyncClient is AsyncClient
    with pytest.raises(AttributeError, match="no attribute 'Klient'"):
        keepsight.Klient  # type: ignore[attr-defined]  # noqa: B018
    code = (
        "import sys, keepsight; early = 'httpx' in sys.modules; "
        "keepsight.AsyncClient; print(early, 'torch' in sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "False False"


def test_the_package_offers_these_names_and_no_others() -> None:
    offered = {
        "ApiError",
        "AsyncClient",
        "Client",
        "ClientError",
        "DownloadError",
        "Retries",
        "ServiceUnreachableError",
        "UploadError",
        "__version__",
    }
    assert set(keepsight.__all__) == set(keepsight.client.__all__) == offered
    assert all(getattr(keepsight, name) is getattr(keepsight.client, name) for name in offered)


def test_the_package_says_that_it_is_typed() -> None:
    assert (Path(keepsight.__file__).parent / "py.typed").is_file()

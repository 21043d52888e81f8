"""The load generator against a tiny server, and the forms its requests take."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
from collections.abc import Awaitable, Callable

import pytest

from benchmarks.serving import abuse_client
from benchmarks.serving.abuse_client import (
    EXPECTED,
    MISDEEDS,
    abuse,
    eight_with_one_bad,
    plan,
    seven_right_one_error,
    wrong,
)
from benchmarks.serving.generator import Generator, Load, is_four, photos_of, window
from benchmarks.serving.wire import Connection, Shape

MULTIPART = Shape(path="/v1/classify", style="multipart")
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def read_request(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    """(head, body) of one request; both empty at the end of the connection."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length"))
        return head, await reader.readexactly(int(length.split(b":")[1]))
    except (asyncio.IncompleteReadError, ConnectionError):
        return b"", b""


class TinyServer:
    """Answers every request with its body's length, 500 if the body says `fail`, and hangs up if it says `drop`."""

    def __init__(self) -> None:
        self.connections = 0
        self.bodies: list[bytes] = []
        self.handlers: list[asyncio.Task[None]] = []

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        handler = asyncio.current_task()
        assert handler is not None
        self.handlers.append(handler)
        while True:
            head, body = await read_request(reader)
            if not head or b"drop" in body:
                break
            self.bodies.append(body)
            status = b"500 Internal Server Error" if b"fail" in body else b"200 OK"
            text = str(len(body)).encode()
            writer.write(b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (status, len(text), text))
            await writer.drain()
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


def with_server(run: Callable[[int, TinyServer], Awaitable[None]]) -> None:
    async def main() -> None:
        tiny = TinyServer()
        server = await asyncio.start_server(tiny.handle, "127.0.0.1", 0)
        try:
            await run(server.sockets[0].getsockname()[1], tiny)
            await asyncio.gather(*tiny.handlers, return_exceptions=True)
        finally:
            server.close()
            await server.wait_closed()

    asyncio.run(main())


class TestConnection:
    def test_one_connection_serves_many_requests(self) -> None:
        async def run(port: int, tiny: TinyServer) -> None:
            connection = Connection(port)
            raw = Shape(path="/", style="raw")
            assert [await connection.ask(raw.request([b"x" * n])) for n in (3, 5)] == [(200, b"3"), (200, b"5")]
            connection.close()
            assert tiny.connections == 1

        with_server(run)

    def test_a_connection_that_breaks_is_status_0_and_the_next_request_opens_another(self) -> None:
        async def run(port: int, tiny: TinyServer) -> None:
            connection = Connection(port)
            raw = Shape(path="/", style="raw")
            assert await connection.ask(raw.request([b"drop"])) == (0, b"")
            assert await connection.ask(raw.request([b"fine"])) == (200, b"4")
            connection.close()
            assert tiny.connections == 2

        with_server(run)

    def test_nobody_there_is_status_0(self) -> None:
        assert asyncio.run(Connection(1).ask(b"GET / HTTP/1.1\r\n\r\n")) == (0, b"")


class TestLoad:
    def test_requests_go_out_in_order_and_those_under_way_are_waited_for(self) -> None:
        async def run(port: int, tiny: TinyServer) -> None:
            load = Load(port, [Shape(path="/", style="raw").request([bytes([i])]) for i in range(3)], clients=1)
            running = asyncio.create_task(load.run(keep_bodies=True))
            while len(load.log) < 7:
                await asyncio.sleep(0)
            load.stop()
            await running
            assert [entry[3] for entry in load.log[:7]] == [0, 1, 2, 0, 1, 2, 0]
            assert {entry[2] for entry in load.log} == {200}
            assert all(begin <= end for begin, end, *_ in load.log)
            assert len(tiny.bodies) == len(load.log)

        with_server(run)

    def test_a_window_counts_answers_and_failures_and_says_when_it_began_and_ended(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        async def run(port: int, tiny: TinyServer) -> None:
            raw = Shape(path="/", style="raw")
            load = Load(port, [raw.request([b"good"]), raw.request([b"fail"])], clients=2)
            found = await window(load, warm_s=0.0, measure_s=0.2)
            assert found["answered"] > 0
            assert found["failed"] > 0
            assert found["first_failure"] == "500: 4"
            assert len(found["latencies_ms"]) == found["answered"]
            assert found["client_cpu_s"] >= 0

        with_server(run)
        assert [json.loads(line)["event"] for line in capsys.readouterr().out.splitlines()] == ["begin", "end"]

    def test_the_mixed_load_sends_four_images_in_every_fifth_request(self) -> None:
        assert [is_four(place) for place in range(5)] == [False, False, False, False, True]
        assert photos_of(1, 6) == [1]
        assert photos_of(4, 6) == [4, 5, 0, 1]

    def test_a_soak_keeps_every_body_and_is_asked_in_the_meantime(
        self, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        out = tmp_path_factory.mktemp("soak") / "log.jsonl"

        async def run(port: int, tiny: TinyServer) -> None:
            generator = Generator([b"a", b"bb"])
            shape = MULTIPART.model_dump()
            await generator.do({"op": "soak", "port": port, "shape": shape, "photos": 2, "clients": 1, "out": str(out)})
            asked = await generator.do({"op": "ask", "port": port, "shape": shape})
            assert [answer["status"] for answer in asked["answers"]] == [200, 200]
            told = await generator.do({"op": "stop"})
            assert told["requests"] == len(out.read_text().splitlines())

        with_server(run)
        assert json.loads(out.read_text().splitlines()[0]).keys() == {"begin", "end", "status", "place", "body"}


class TestShapes:
    def test_a_form_has_a_part_for_each_image(self) -> None:
        head, _, body = MULTIPART.request([b"one", b"two"]).partition(b"\r\n\r\n")
        assert b"multipart/form-data; boundary=" in head
        assert f"Content-Length: {len(body)}".encode() in head
        assert body.count(b'name="images"') == 2
        assert b"\r\n\r\none\r\n" in body

    def test_openai_s_shape_holds_data_uris_and_what_is_added(self) -> None:
        shape = Shape(path="/embeddings", style="openai", extra={"modality": "image"})
        body = json.loads(shape.request([b"one"]).partition(b"\r\n\r\n")[2])
        assert body == {"input": ["data:image/jpeg;base64," + base64.b64encode(b"one").decode()], "modality": "image"}

    def test_a_raw_body_holds_one_image(self) -> None:
        assert Shape(path="/predict", style="raw").request([b"one"]).endswith(b"\r\n\r\none")
        with pytest.raises(ValueError, match="holds one image"):
            Shape(path="/predict", style="raw").request([b"one", b"two"])


class TestAbuse:
    def test_the_plan_has_its_share_of_misdeeds_of_every_kind(self) -> None:
        kinds = plan(1000, 0.06, seed=0)
        assert sum(kind in MISDEEDS for kind in kinds) == 60
        assert set(MISDEEDS) <= set(kinds)
        assert kinds != sorted(kinds)

    def test_every_request_is_accounted_for(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(abuse_client, "_SLOW_S", 0.0)

        async def run(port: int, tiny: TinyServer) -> None:
            found = await abuse([b"photo"], port=port, requests=40, share=0.3, clients=4)
            counts = {kind: sum(statuses.values()) for kind, statuses in found["answers"].items()}
            assert sum(counts.values()) == 40
            assert counts["healthy"] == 28
            assert found["answers"]["reset_mid_body"] == {"hung up": 2}
            # this server takes everything for granted, so what should have been refused is wrong
            assert found["wrong"] == sum(counts[kind] for kind in ("no_form", "cut_form", "wrong_field"))

        with_server(run)

    def test_what_must_be_refused_and_is_not_is_wrong(self) -> None:
        assert (
            wrong({"healthy": {"200": 5, "0": 1}, "no_form": {"400": 2, "200": 1}, "reset_mid_body": {"hung up": 3}})
            == 2
        )
        assert set(EXPECTED) <= {"healthy", *MISDEEDS}

    def test_eight_images_of_which_one_is_none(self) -> None:
        assert eight_with_one_bad([b"photo"]).count(b"\r\n\r\nphoto") == 7
        good = {"predictions": [{"label": "cat"}], "error": None}
        bad = {"predictions": [], "error": {"type": "urn:keepsight:problem:undecodable-image"}}
        answer = json.dumps({"results": [good, good, good, bad, good, good, good, good]}).encode()
        assert seven_right_one_error(200, answer)
        assert not seven_right_one_error(200, json.dumps({"results": [good] * 8}).encode().replace(b"xx", b""))
        assert not seven_right_one_error(422, answer)

"""Sends bad inputs to a service, and finds what they did to it and to a client that means well."""

from __future__ import annotations

import asyncio
import contextlib
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

from benchmarks.common.machine import proc_field
from benchmarks.common.proc import PROC, all_stats, members
from benchmarks.faults.checks import is_server_error, open_traces, percentile, traces
from benchmarks.faults.inputs.bad import Bad, classify
from benchmarks.faults.service import Answer, command_line
from benchmarks.faults.stage import Stage

AT_ONCE: Final = 8
WHOLE_S: Final = 90.0
"""Seconds within which a whole request must be answered."""
PART_S: Final = 3.0
"""Seconds that are waited for an answer to what is not a whole request."""
QUIET_S: Final = 30.0
"""Seconds of usual service: long enough that a percentile is not one answer's."""
CROWDED_S: Final = 8.0
REST_S: Final = 2.0
RESTING_SHARE: Final = 0.05
"""Of a core: what all but the servers use at most when the service is at rest."""
TOLD: Final = 100
"""How many of the inputs that did harm are told one by one."""
STALL: Final = "stall"
HOLD: Final = "hold"
"""The loop came back late; it did though a core was free for it."""
HELD: Final = ("keepsight_requests_in_hand", "keepsight_inference_queue")
_MOST: Final = 1 << 20
_SAMPLE_S: Final = 0.1


@dataclass
class Abuse:
    """What the bad inputs did.

    Attributes:
        inputs: How many there were, by kind.
        answers: How they were answered, by kind and status; 0: the connection was closed or nothing came.
        spans: When the first of a kind was sent, and the last answered.
        harm: Inputs that were answered with an error of the server, or not at all, and how.
        server_errors: How many these are, or how many the servers themselves counted, whichever is more.
        unanswered: Whole requests without an answer.
        requests: What the steady client asked meanwhile, and how many of these failed.
        usual_ms, abused_ms: Its 99th percentile before and meanwhile.
        crowded_ms: The same beside as many honest clients.
        by_kind_ms: The same while the inputs of a kind were sent.
        peak_extra_mib: What a server and its children held above rest at one time, the server with the most.
        kept_mib: What a server still holds above rest afterwards.
        longest_stall_ms: The longest that a server's event loop stood still; None if it does not tell.
        longest_hold_ms: The same without the time in which the kernel had no core for it.
        left_in_hand: Requests that a server still counts as in progress afterwards.
        image_bytes_found: Files that hold bytes of an image afterwards.
        problems: All of this that should not be, in sentences.
    """

    inputs: Counter[str] = field(default_factory=Counter)
    answers: dict[str, Counter[str]] = field(default_factory=dict)
    spans: dict[str, tuple[float, float]] = field(default_factory=dict)
    harm: list[str] = field(default_factory=list)
    server_errors: int = 0
    unanswered: int = 0
    requests: int = 0
    requests_failed: int = 0
    usual_ms: float | None = None
    abused_ms: float | None = None
    crowded_ms: float | None = None
    by_kind_ms: dict[str, float | None] = field(default_factory=dict)
    peak_extra_mib: float = 0.0
    kept_mib: float = 0.0
    longest_stall_ms: float | None = None
    longest_hold_ms: float | None = None
    left_in_hand: int = 0
    image_bytes_found: int = 0
    jobs: int = 0
    jobs_lost: int = 0
    service_ended: bool = False
    seconds: float = 0.0
    problems: list[str] = field(default_factory=list)


def abuse(stage: Stage, inputs: Iterable[Bad], *, tell: Callable[[int], None] = lambda done: None) -> Abuse:
    """Send all inputs, a few at once, and look at what is left of the service."""
    found, service = Abuse(), stage.service
    warm(stage)
    until_at_rest(stage)
    time.sleep(QUIET_S)
    now = time.monotonic()
    found.usual_ms = slowest(stage, now - QUIET_S, now)
    found.crowded_ms = beside_honest_ones(stage)
    before = service.metrics()
    begun = time.monotonic()
    with Memory(service.pids("server")) as memory:
        asyncio.run(_send_all(service.port, inputs, found, tell))
    found.seconds = round(time.monotonic() - begun, 1)
    found.peak_extra_mib = memory.extra_mib
    _aftermath(stage, found, begun, before)
    memory.look_again()
    found.kept_mib = memory.kept_mib
    return found


def warm(stage: Stage) -> None:
    """Use the service as it is meant to be used, so that rest is that of one that has worked."""
    for _ in range(6):
        stage.service.ask("POST", "/v1/classify", *_honest(stage, 64))


def until_at_rest(stage: Stage) -> None:
    """Wait until what was learned last is done with: its worker computes for some seconds more."""
    service = stage.service

    def at_rest() -> bool:
        before = _beside_servers_s(stage)
        time.sleep(REST_S)
        return _beside_servers_s(stage) - before <= RESTING_SHARE * REST_S

    service.wait(at_rest, "a service at rest")


def _beside_servers_s(stage: Stage) -> float:
    """Seconds of CPU that all of the service but its servers has used."""
    stats = all_stats()
    return sum(
        stats[pid].cpu_s for pid in set(stage.service.tree()) - set(stage.service.pids("server")) if pid in stats
    )


def beside_honest_ones(stage: Stage) -> float | None:
    """The steady client's 99th percentile beside as many clients as send bad inputs, each with one sound image."""
    begun = time.monotonic()

    async def one_after_another() -> None:
        while time.monotonic() < begun + CROWDED_S:
            await send(stage.service.port, Bad("image", "none", classify(stage.pictures.png())))

    async def all_at_once() -> None:
        await asyncio.gather(*(one_after_another() for _ in range(AT_ONCE)))

    asyncio.run(all_at_once())
    return slowest(stage, begun, time.monotonic())


def slowest(stage: Stage, begin: float, end: float) -> float | None:
    """The 99th percentile of the steady client's requests, in milliseconds."""
    share = percentile([asked.seconds for asked in stage.client.between(begin, end)], 0.99)
    return None if share is None else round(share * 1000, 1)


def _honest(stage: Stage, images: int) -> tuple[bytes, dict[str, str]]:
    head, _, body = classify(*(stage.pictures.png() for _ in range(images))).partition(b"\r\n\r\n")
    kind = next(line for line in head.decode().split("\r\n") if line.startswith("Content-Type"))
    return body, dict([kind.split(": ", 1)])


# --- sending ----------------------------------------------------------------------------------------------------------


async def _send_all(port: int, inputs: Iterable[Bad], found: Abuse, tell: Callable[[int], None]) -> None:
    waiting = iter(inputs)

    async def one_after_another() -> None:
        for bad in waiting:
            begun = time.monotonic()
            answer = await send(port, bad)
            first, _ = found.spans.get(bad.kind, (begun, 0.0))
            found.spans[bad.kind] = (first, time.monotonic())
            found.inputs[bad.kind] += 1
            found.answers.setdefault(bad.kind, Counter())[str(answer.status)] += 1
            if answer.status == 202:
                await _cancel(port, answer)
            elif answer.status == 0 and bad.whole and answer.body == _SILENCE:
                found.unanswered += 1
                _tell_harm(found, bad, answer)
            elif answer.status and is_server_error(answer):
                found.server_errors += 1
                _tell_harm(found, bad, answer)
            tell(sum(found.inputs.values()))

    await asyncio.gather(*(one_after_another() for _ in range(AT_ONCE)))


_SILENCE: Final = b"no answer in time"


def _tell_harm(found: Abuse, bad: Bad, answer: Answer) -> None:
    if len(found.harm) < TOLD:
        found.harm.append(f"{bad.kind}: {bad.what}: {answer}")


async def send(port: int, bad: Bad) -> Answer:
    """The first answer to an input; status 0 if the connection ends or the time is over before there is one."""
    writer = None
    try:
        async with asyncio.timeout(WHOLE_S if bad.whole else PART_S):
            reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=_MOST)
            sending = asyncio.create_task(_write(writer, bad.raw))
            try:
                return await _answer(reader, head=bad.raw.startswith(b"HEAD "))
            finally:
                sending.cancel()
    except TimeoutError:
        return Answer(0, _SILENCE)
    except (OSError, ValueError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
        return Answer(0, type(error).__name__.encode())
    finally:
        if writer is not None:
            writer.transport.abort()


async def _write(writer: asyncio.StreamWriter, raw: bytes) -> None:
    with contextlib.suppress(OSError):  # the server may have had enough of it
        writer.write(raw)
        await writer.drain()


async def _answer(reader: asyncio.StreamReader, *, head: bool) -> Answer:
    while True:
        lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        status = int(lines[0].split()[1])
        if status >= 200:
            break
    headers = dict(line.lower().split(": ", 1) for line in lines[1:] if ": " in line)
    length = 0 if head else int(headers.get("content-length", "0"))
    return Answer(status, await reader.readexactly(min(length, _MOST)), headers)


async def _cancel(port: int, accepted: Answer) -> None:
    """Take back what was accepted by accident: a mutation that changed nothing of weight."""
    location = accepted.json["location"]
    raw = f"DELETE {location} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()
    await send(port, Bad("request", "cancel", raw))


# --- what it did ------------------------------------------------------------------------------------------------------


class Memory:
    """The most that a process and what it starts hold at one time, above what they held when the block began.

    The kernel knows the peak of the process itself; together with its children it is sampled.
    """

    def __init__(self, pids: list[int]) -> None:
        self._pids = pids
        self._together = dict.fromkeys(pids, 0)
        self._rest: dict[int, int] = {}
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self.extra_mib = 0.0
        self.kept_mib = 0.0

    def __enter__(self) -> Self:
        for pid in self._pids:
            (PROC / str(pid) / "clear_refs").write_text("5")  # the peak begins anew
            self._rest[pid] = kib(pid, "VmRSS")
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        extra = [max(self._together[pid], kib(pid, "VmHWM") - self._rest[pid]) for pid in self._pids]
        self.extra_mib = round(max(extra, default=0) / 1024, 1)

    def look_again(self) -> None:
        """Note what is still held above rest."""
        kept = [kib(pid, "VmRSS") - self._rest[pid] for pid in self._pids]
        self.kept_mib = round(max(kept, default=0) / 1024, 1)

    def _sample(self) -> None:
        while not self._done.wait(_SAMPLE_S):
            stats = all_stats()
            for pid in self._pids:
                # until it runs a program of its own, a child is in the memory of its parent
                own = command_line(pid)
                children = [child for child in members(pid, stats) - {pid} if command_line(child) != own]
                held = kib(pid, "VmRSS") - self._rest[pid] + sum(kib(child, "VmRSS") for child in children)
                self._together[pid] = max(self._together[pid], held)


def kib(pid: int, name: str) -> int:
    """A field of a process's status in KiB; 0 if it has ended."""
    try:
        return int((proc_field(PROC / str(pid) / "status", name) or "0").split()[0])
    except OSError:
        return 0


def gauge(text: str, name: str) -> float | None:
    """The largest value of a metric, whatever its labels."""
    found = re.findall(rf"^{name}(?:\{{[^}}]*\}})? (\S+)$", text, re.MULTILINE)
    return max(map(float, found), default=None)


def longest(what: str, before: str, after: str) -> float | None:
    """The longest that an event loop stood still, or was held up, between two looks at its metrics, in seconds.

    The server keeps the longest since its start. If that has not changed, the bound of the highest bucket of its
    histogram that has grown is as near as can be told.
    """
    since_start, known = (gauge(text, f"keepsight_event_loop_longest_{what}_seconds") for text in (after, before))
    if since_start is None or known is None:
        return None
    if since_start > known:
        return since_start
    bucket = rf'^keepsight_event_loop_{what}_seconds_bucket\{{le="([^"]+)"\}} (\S+)$'
    buckets, earlier = re.findall(bucket, after, re.M), dict(re.findall(bucket, before, re.M))
    grown = [(float(bound), float(count) - float(earlier.get(bound, 0))) for bound, count in buckets]
    total = max((count for _, count in grown), default=0.0)
    return min((min(bound, since_start) for bound, count in grown if count == total and total), default=0.0)


def _longest_ms(what: str, before: list[str], after: list[str]) -> float | None:
    of_each = (longest(what, *texts) for texts in zip(before, after, strict=False))
    return max((round(seconds * 1000, 1) for seconds in of_each if seconds is not None), default=None)


def server_errors_counted(metrics: list[str]) -> int:
    """How many answers of 500 and the like all servers have counted; those that say when to come back are none."""
    found = 0.0
    for text in metrics:
        for status, value in re.findall(r'^keepsight_requests_total\{[^}]*status="(\d+)"[^}]*\} (\S+)$', text, re.M):
            found += float(value) if status.startswith("5") and status not in ("503", "504", "507") else 0
    return int(found)


def _aftermath(stage: Stage, found: Abuse, begun: float, before: list[str]) -> None:
    service, problems = stage.service, found.problems
    found.service_ended = service.ended is not None
    if found.service_ended:
        problems.append(f"the service ended with exit status {service.ended}: {service.said()}")
        return
    deadline = time.monotonic() + 20
    while (left := _in_hand(service.metrics())) and time.monotonic() < deadline:
        time.sleep(0.5)
    found.left_in_hand = left
    if left:
        problems.append(f"{left} requests are still in hand 20 s after the last input")
    told = service.metrics()
    found.server_errors = max(found.server_errors, server_errors_counted(told) - server_errors_counted(before))
    found.longest_stall_ms, found.longest_hold_ms = (_longest_ms(what, before, told) for what in (STALL, HOLD))
    _honest_use(stage, found, begun)
    for count, what in (
        (found.server_errors, "inputs were answered with an error of the server"),
        (found.unanswered, "whole requests were not answered"),
        (found.requests_failed, "requests of the steady client failed"),
        (found.jobs_lost, "jobs afterwards did not succeed"),
        (found.image_bytes_found, "files hold bytes of images"),
    ):
        if count:
            problems.append(f"{count} {what}")


def _in_hand(metrics: list[str]) -> int:
    return int(sum(gauge(text, name) or 0 for text in metrics for name in HELD))


def _honest_use(stage: Stage, found: Abuse, begun: float) -> None:
    """Afterwards: images are answered, a task is learned, and nothing of an image is left."""
    service = stage.service
    end = time.monotonic()
    answer = service.ask("POST", "/v1/classify", *_honest(stage, 8))
    if answer.status != 200:
        found.problems.append(f"images afterwards were answered {answer}")
    answer, job_id = stage.teach()
    if job_id is None:
        found.problems.append(f"an upload afterwards was answered {answer}")
    else:
        stage.finish([job_id])
        found.jobs = 1
        found.jobs_lost = int(stage.jobs[job_id].state != "succeeded")
    with contextlib.suppress(Exception):
        service.wait(lambda: stage.client.settled(end), "answers to the steady client")
    asked = stage.client.between(begun, end)
    found.requests, found.requests_failed = len(asked), sum(request.why is not None for request in asked)
    found.abused_ms = slowest(stage, begun, end)
    found.by_kind_ms = {kind: slowest(stage, *span) for kind, span in found.spans.items()}
    if found.requests_failed:
        found.problems.append(f"the first: {next(request.why for request in asked if request.why)}")
    needles = stage.pictures.mark.needles
    left = traces([Path(service.base)], needles) + open_traces(service.tree(), needles)
    found.image_bytes_found = len(left)
    if left:
        found.problems.append(f"bytes of images are left in {', '.join(left[:5])}")


_NUMBERS: Final = (
    *("service_ended", "requests", "requests_failed", "jobs", "jobs_lost", "server_errors", "unanswered"),
    *("image_bytes_found", "longest_stall_ms", "longest_hold_ms"),
    *("peak_extra_mib", "kept_mib", "left_in_hand", "seconds"),
)


def as_record(found: Abuse) -> dict[str, Any]:
    """What is kept of it."""
    return {
        "inputs": dict(found.inputs),
        "answers": {kind: dict(sorted(counts.items())) for kind, counts in found.answers.items()},
        "harm": found.harm,
        "usual_p99_ms": found.usual_ms,
        "abused_p99_ms": found.abused_ms,
        "crowded_p99_ms": found.crowded_ms,
        "abused_p99_ms_by_kind": found.by_kind_ms,
        "problems": found.problems,
        **{name: getattr(found, name) for name in _NUMBERS},
    }


def of_record(kept: Mapping[str, Any]) -> Abuse:
    """The same again."""
    return Abuse(
        inputs=Counter(kept["inputs"]),
        answers={kind: Counter(counts) for kind, counts in kept["answers"].items()},
        harm=list(kept["harm"]),
        usual_ms=kept["usual_p99_ms"],
        abused_ms=kept["abused_p99_ms"],
        crowded_ms=kept["crowded_p99_ms"],
        by_kind_ms=dict(kept["abused_p99_ms_by_kind"]),
        problems=list(kept["problems"]),
        **{name: kept[name] for name in _NUMBERS if name in kept},
    )

"""Clients that hang up, dawdle and send rubbish: the others are answered, and nothing stays behind."""

from __future__ import annotations

import re
import time
from typing import Any, Final

from benchmarks.common.proc import memory_mib
from benchmarks.serving.abuse_client import CLASSIFY, eight_with_one_bad, seven_right_one_error
from benchmarks.serving.foreign import foreign_meter, load_summary
from benchmarks.serving.servers import Server, running
from benchmarks.serving.versions import api_pids
from benchmarks.serving.workplace import COMPACT, Workplace, measure_load

GAUGES: Final = ("keepsight_requests_in_hand", "keepsight_inference_queue")
_SETTLE_S: Final = 10.0


def measure(place: Workplace) -> dict[str, Any]:
    """The part's record."""
    plan = place.plan
    folder, described = place.photos(longest=plan.abuse_longest_px)
    photos = [path.read_bytes() for path in sorted(folder.glob("*.jpg"))]
    store, _ = place.store(COMPACT, versions=1, name="abuse")
    with running(place.ours(COMPACT, store), place.log("abuse")) as server, place.generator(folder) as generator:
        pids = api_pids(server, 1)
        place.tell("warming")
        measure_load(
            generator, server, CLASSIFY, clients=plan.abuse_clients, warm_s=plan.warm_s, measure_s=plan.calibration_s
        )
        with server.awake():
            before, kind = memory_mib(pids)
            read, begun = foreign_meter(), time.monotonic()
            found = generator.do(
                op="abuse",
                port=server.port,
                requests=plan.abuse_requests,
                share=plan.abuse_share,
                clients=plan.abuse_clients,
                on_event=place.tell,
            )
            wall_s, foreign = time.monotonic() - begun, read()
            eight = seven_right_one_error(*_send(server, eight_with_one_bad(photos)))
            stuck, settled_s = _settled(server)
            after, _ = memory_mib(pids)
            status, _ = _send(server, CLASSIFY.request([photos[0]]))
    return {
        "figures": {
            "abuse_wrong": found["wrong"],
            "abuse_stuck": stuck,
            "abuse_settled_s": round(settled_s, 2),
            "abuse_memory_ratio": round(after / before, 4),
            "abuse_answers_afterwards": status == 200,
            "abuse_eight_images_one_bad": eight,
            "abuse_per_s": round(plan.abuse_requests / wall_s, 1),
        },
        "answers": found["answers"],
        "memory_mib": [before, after],
        "memory_counted_as": kind,
        "photos": described,
        "load": load_summary([foreign]),
    }


def gauges(text: str) -> dict[str, float]:
    """The values of `GAUGES` in Prometheus' text format."""
    found = {name: re.search(rf"^{name} (\S+)$", text, re.MULTILINE) for name in GAUGES}
    return {name: float(match[1]) for name, match in found.items() if match}


def _settled(server: Server) -> tuple[int, float]:
    """What the gauges still hold after at most ten seconds, and how long it took them to fall to nothing."""
    begun = time.monotonic()
    while True:
        values = gauges(server.get("/metrics")[1].decode())
        left, waited = sum(values[name] for name in GAUGES), time.monotonic() - begun
        if left == 0 or waited > _SETTLE_S:
            return int(left), waited
        time.sleep(0.1)


def _send(server: Server, request: bytes) -> tuple[int, bytes]:
    """(status, body) of a request that is bytes already."""
    head, _, body = request.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    _, path, _ = first.split(" ")
    headers = dict(line.split(": ", 1) for line in lines)
    return server.ask("POST", path, body, headers)

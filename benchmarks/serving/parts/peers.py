"""Keepsight beside other servers, with the same weights, images and threads, each on its best settings."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np

from benchmarks.common.proc import freeze
from benchmarks.serving.child import Child
from benchmarks.serving.contenders import CLASSIFY, EMBED, PEERS, Peer, PeerError, Settings, install, versions
from benchmarks.serving.figures import least_centred_cosine, median_ratio, median_value
from benchmarks.serving.foreign import Window, interleaved, load_of
from benchmarks.serving.servers import Server, ServerError, running
from benchmarks.serving.wire import Shape
from benchmarks.serving.workplace import VIT, Workplace, measure_load

OURS = {"classify": "keepsight classify", "embed": "keepsight embeddings"}
CALIBRATION_CLIENTS = 16
_COMPARED = 20


def measure(place: Workplace) -> dict[str, Any]:
    """The part's record. A peer that cannot be installed or does not run is in `missing`, with the reason."""
    folder, described = place.photos()
    weights = place.weights()
    missing: dict[str, str] = {}
    chosen: dict[str, Settings] = {}
    detail: dict[str, Any] = {}
    with place.generator(folder) as generator:
        for peer in PEERS:
            try:
                place.tell(f"installing {peer.name}")
                install(peer.environment, place.peers)
                chosen[peer.name], tried = _calibrated(place, peer, generator)
            except (PeerError, ServerError) as error:
                missing[peer.name] = str(error)
                continue
            detail[peer.name] = {
                "settings": chosen[peer.name],
                "tried": tried,
                "versions": versions(peer.environment, place.peers),
            }
        # the first version has no adapters, so that all servers have the very same towers
        store, _ = place.store(VIT, versions=1, name="peers", first_adapted=False)
        with ExitStack() as stack:
            ours = stack.enter_context(running(place.ours(VIT, store), place.log("peers-keepsight")))
            freeze(ours.root, frozen=True)
            theirs: dict[str, Server] = {}
            for peer in PEERS:
                if peer.name in chosen:
                    launch = peer.launch(place.peers / peer.environment, chosen[peer.name], weights, place.plan.threads)
                    theirs[peer.name] = stack.enter_context(running(launch, place.log(f"peers-{peer.name}")))
                    freeze(theirs[peer.name].root, frozen=True)
            by_clients = _measured(place, ours, theirs, generator)
            cosine = _agreement(generator, ours, theirs["infinity"]) if "infinity" in theirs else None
    windows = [window for found in by_clients.values() for window in found]
    return {
        "figures": figures(by_clients, missing),
        "missing": missing,
        "peers": detail,
        "infinity_least_centred_cosine": cosine,
        "photos": described,
        "table": {str(clients): table(found) for clients, found in by_clients.items()},
        "windows": {str(clients): [w.as_record() for w in found] for clients, found in by_clients.items()},
        "load": load_of(windows),
    }


def _calibrated(place: Workplace, peer: Peer, generator: Child) -> tuple[Settings, list[dict[str, Any]]]:
    """The settings with the most throughput at 16 clients, and what all of them gave.

    Raises:
        ServerError: it runs with none of them.
    """
    tried: list[dict[str, Any]] = []
    last = "no settings were tried"
    for settings in peer.tries[: place.plan.tries_per_peer]:
        place.tell(f"{peer.name} with {settings}")
        launch = peer.launch(place.peers / peer.environment, settings, place.weights(), place.plan.threads)
        try:
            with running(launch, place.log(f"calibration-{peer.name}")) as server:
                run = _load(place, generator, server, peer.shape, CALIBRATION_CLIENTS, place.plan.calibration_s)
                run()  # the first requests pay for what is slow once
                window = place.gate.measure(peer.name, 1, run)
        except ServerError as error:
            last = str(error)
            tried.append({"settings": settings, "per_s": None, "failure": "it did not start"})
            continue
        values = window.values
        if values["failed"] or not values["answered"]:
            last = f"{values['answered']} answers, {values['failed']} failures in the window: {values['first_failure']}"
            tried.append({"settings": settings, "per_s": None, "failure": "not all requests were answered"})
        else:
            tried.append({"settings": settings, "per_s": values["per_s"], "noisy": window.noisy})
    good = [entry for entry in tried if entry["per_s"] is not None]
    if not good:
        raise ServerError(f"{peer.name} runs with none of its settings; the last said: {last}")
    best: Settings = max(good, key=lambda entry: entry["per_s"])["settings"]
    return best, tried


def _load(
    place: Workplace, generator: Child, server: Server, shape: Shape, clients: int, seconds: float
) -> Callable[[], Mapping[str, Any]]:
    warm_s = place.plan.warm_s + clients / 32  # with more clients it takes longer until all of them are in step
    return lambda: measure_load(generator, server, shape, clients=clients, warm_s=warm_s, measure_s=seconds)


def _measured(
    place: Workplace, ours: Server, theirs: Mapping[str, Server], generator: Child
) -> dict[int, list[Window]]:
    sides: dict[str, tuple[Server, Shape]] = {OURS["classify"]: (ours, CLASSIFY), OURS["embed"]: (ours, EMBED)}
    sides |= {peer.name: (theirs[peer.name], peer.shape) for peer in PEERS if peer.name in theirs}
    for name, (server, shape) in sides.items():  # what is slow once, and batching that learns from traffic
        place.tell(f"warming {name}")
        _load(place, generator, server, shape, CALIBRATION_CLIENTS, place.plan.calibration_s)()
    found: dict[int, list[Window]] = {}
    for clients in place.plan.clients:
        found[clients] = interleaved(
            {
                name: _load(place, generator, server, shape, clients, place.plan.peer_window_s)
                for name, (server, shape) in sides.items()
            },
            rounds=place.plan.peer_rounds,
            gate=place.gate,
            on_window=lambda what, clients=clients: place.tell(f"{clients} clients, {what}"),  # type: ignore[misc]
        )
    return found


def figures(by_clients: Mapping[int, Sequence[Window]], missing: Mapping[str, str]) -> dict[str, float | None]:
    """`best_peer_ratio_cN`: the least of our throughput over a peer's; null unless every peer was measured.

    `peer_ratio_NAME_cN` is the same against one; `cpu_ratio_cN` the least of a peer's CPU time a request over ours.
    """
    found: dict[str, float | None] = {}
    for clients, windows in by_clients.items():
        rates, costs = [], []
        for peer in PEERS:
            ours = OURS[peer.asked]
            rate = median_ratio(windows, ours, peer.name, "per_s")
            cost = median_ratio(windows, peer.name, ours, "cpu_ms")
            found[f"peer_ratio_{peer.name}_c{clients}"] = rate
            found[f"cpu_ratio_{peer.name}_c{clients}"] = cost
            rates.append(rate)
            costs.append(cost)
        found[f"best_peer_ratio_c{clients}"] = least(rates) if not missing else None
        found[f"cpu_ratio_c{clients}"] = least(costs) if not missing else None
    return found


def least(values: Sequence[float | None]) -> float | None:
    """The smallest; None if any is missing, so that a peer that failed is never passed over."""
    return None if not values or None in values else min(value for value in values if value is not None)


def table(windows: Sequence[Window]) -> dict[str, dict[str, float | None]]:
    """Throughput and CPU time a request by server: medians."""
    wanted = ("per_s", "cpu_ms", "client_cpu_ms")
    names = dict.fromkeys(window.side for window in windows)
    return {name: {value: median_value(windows, name, value) for value in wanted} for name in names}


def _agreement(generator: Child, ours: Server, infinity: Server) -> float:
    """The least cosine between both servers' vectors of the same images, each less its own mean."""
    shapes = ((ours, EMBED), (infinity, next(peer.shape for peer in PEERS if peer.name == "infinity")))
    vectors = []
    for server, shape in shapes:
        with server.awake():
            answers = generator.do(op="ask", port=server.port, shape=shape.model_dump(), photos=_COMPARED)["answers"]
        vectors.append(np.stack([vector(answer["body"]) for answer in answers]))
    return least_centred_cosine(*vectors)


def vector(body: str) -> np.ndarray[Any, Any]:
    """The one vector of an embeddings answer, sent in base64."""
    text = json.loads(body)["data"][0]["embedding"]
    return np.frombuffer(base64.b64decode(text), dtype="<f4").astype(np.float64)

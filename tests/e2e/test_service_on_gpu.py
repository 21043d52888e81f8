"""The whole service on a GPU: taught, asked, and swapped while it is asked. Skipped where there is no GPU."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
    pytest.mark.slow,
]

SETTINGS = ("--set", "epochs=8", "--set", "k_adv=2", "--set", "rank=4")
SWAPS = 10


@pytest.mark.parametrize("graphs", [False, True], ids=["eager", "graphs"])
def test_teach_answer_and_swap_under_load(
    keepsight: Any, colours: Path, finish: Callable[..., Any], graphs: bool
) -> None:
    if graphs:
        keepsight.environment.update(KEEPSIGHT_CUDA_GRAPHS="true", KEEPSIGHT_SERVING_PRECISION="bfloat16")
    process, note = keepsight.up("--device", "cuda", "--api-processes", "2")
    url = note["url"]
    processes = httpx.get(f"{url}/v1/admin/rollout", timeout=60).json()["processes"]
    assert {each["device"].partition(":")[0] for each in processes} == {"cuda"}

    for name, names in (("warm", ("red", "yellow")), ("cold", ("green", "blue"))):
        for each in names:
            shutil.copytree(colours / each, keepsight.folder / name / each)
        taught = keepsight("teach", str(keepsight.folder / name), *SETTINGS, "--json", url=url)
        assert taught.code == 0, taught.err
        assert taught.json["state"] == "succeeded"

    right = total = 0
    for name in ("red", "yellow", "green", "blue"):
        found = keepsight("classify", str(colours / name), "--json", url=url).json["results"]
        right += sum(each["predictions"][0]["label"] == name for each in found)
        total += len(found)
    assert right / total > 0.9

    listing = keepsight("versions", "--json", url=url).json
    newest = listing["current"]
    older = [v["version_id"] for v in listing["versions"] if v["made"] == "trained" and v["version_id"] != newest][-1]
    image = (colours / "red" / "0.png").read_bytes()
    statuses: list[int] = []
    served: set[str] = set()
    stopping = threading.Event()

    def ask() -> None:
        with httpx.Client(timeout=60) as client:
            while not stopping.is_set():
                answer = client.post(f"{url}/v1/classify", files={"images": ("0.png", image, "image/png")})
                statuses.append(answer.status_code)
                served.add(answer.json()["model_version"])

    clients = [threading.Thread(target=ask) for _ in range(8)]
    for client in clients:
        client.start()
    try:
        for number in range(SWAPS):
            to = newest if number % 2 else older
            moved = httpx.post(f"{url}/v1/admin/promote", json={"version_id": to, "reason": "to and fro"}, timeout=60)
            assert moved.status_code == 200, moved.text
    finally:
        stopping.set()
        for client in clients:
            client.join(60)
    assert set(statuses) == {200}
    assert len(statuses) > SWAPS
    assert served == {older, newest}

    process.terminate()
    stopped = finish(process)
    assert stopped.code == 0, stopped.err

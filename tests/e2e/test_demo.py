"""The demo as a whole, on a folder of images and a tiny model: every promise but how well so small a model learns."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.waiting import wait_until


def test_the_tour_on_a_folder_of_ones_own(keepsight: Any, colours: Path) -> None:
    arguments = ("--data", str(colours), "--short", "--exit", "--json", "--port", "0", "--folder", "var/demo")
    ran = keepsight("demo", *arguments)
    report = ran.json
    held = {check["name"]: check["held"] for check in report["checks"]}
    learned = {name for name in held if "fused accuracy" in name}
    assert len(learned) == 3
    assert {name: ok for name, ok in held.items() if name not in learned and not ok} == {}, report["checks"]
    assert ran.code == (0 if all(held.values()) else 1)
    assert [task["classes"] for task in report["tasks"]] == [["blue", "green"], ["red", "yellow"]]
    assert len(report["versions"]) == 3
    zero_shot = report["versions"][0]["accuracy"]["colours 1"]
    assert (zero_shot["visual"], zero_shot["fused"], zero_shot["among"]) == (None, None, 4)
    assert report["steady_client"]["failures"] == []
    # an instant version of so small a model may be gone before a steady client asks again
    nothing, first, second = (version["version_id"] for version in report["versions"])
    seen = [version for version in report["steady_client"]["versions"] if version in (nothing, first, second)]
    assert seen == [nothing, first, second, first, second]
    assert ran.err.lstrip().startswith("The page: http://127.0.0.1:")
    assert "Top-1 accuracy on held-out images" in ran.err
    assert keepsight.left_running() == []


def test_a_demo_that_is_killed_takes_its_service_with_it(
    keepsight: Any, colours: Path, finish: Callable[..., Any]
) -> None:
    process = keepsight.popen("demo", "--data", str(colours), "--exit", "--port", "0")
    while "(ready after" not in process.stdout.readline():
        assert process.poll() is None
    assert len(keepsight.left_running()) >= 4  # up, broker, worker, server
    process.kill()
    finish(process)
    wait_until(lambda: keepsight.left_running() == [])

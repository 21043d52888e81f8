"""Fills a running service with what a real one has after a while, so that no page is an empty state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from keepsight import Client
from keepsight.keys import KeyFile

TASKS: Final = {
    "first": ("crimson", "navy"), "second": ("lime", "gold"), "another team": ("orchid", "teal"),
    "labels mixed up": ("fair", "foul"),
}  # fmt: skip
TEST_SET: Final = "field"
STRICT: Final = {"min_accuracy": 1.0, "min_taught_accuracy": 1.0}
_RGB: Final = {
    "crimson": (200, 20, 50), "navy": (20, 20, 140), "lime": (60, 230, 40), "gold": (240, 200, 20),
    "orchid": (215, 110, 215), "teal": (10, 130, 130), "fair": (128, 128, 128), "foul": (128, 128, 128),
}  # fmt: skip


@dataclass(frozen=True)
class Filled:
    """The ids of some versions of a filled service."""

    trunk: str
    merged: str
    edited: str
    held: str


def coloured(folder: Path, per_class: int = 12) -> Path:
    """Write noisy squares for `fill`. The two classes of the last task look the same."""
    import numpy
    from PIL import Image

    random = numpy.random.default_rng(0)
    tasks = {**TASKS, TEST_SET: tuple(name for task in list(TASKS)[:3] for name in TASKS[task])}
    for task, names in tasks.items():
        for name in names:
            (folder / task / name).mkdir(parents=True)
            for n in range(per_class):
                pixels = numpy.array(_RGB[name]) + random.normal(0, 25, (32, 32, 3))
                image = Image.fromarray(numpy.clip(pixels, 0, 255).astype(numpy.uint8))
                image.save(folder / task / name / f"{n}.png")
    return folder


def fill(url: str, images: Path, *, rename: tuple[str, str], config: Mapping[str, object]) -> Filled:
    """Teach, branch, merge, rename, hold, measure, correct and ask.

    Args:
        url: The service, which is open to this machine and has a worker.
        images: A folder for each of TASKS and for TEST_SET, with a folder per class in each. The task "first" may be
            missing where the service knows classes already.
        rename: A class, and its new name.
        config: Hyper-parameters of all tasks.
    """
    with Client(url) as client:
        if (images / "first").is_dir():
            _teach(client, images, "first", config)
        begun = client.versions()["current"] or ""
        trunk = _teach(client, images, "second", config)
        branch = _teach(client, images, "another team", config, parent=begun)
        merged = _finish(client, client.merge(trunk, branch, reason="both halves")["job_id"])
        edited = _finish(client, client.rename_class(rename[0], rename[1], reason="the name on the label")["job_id"])
        client.change_gate(STRICT, reason="each task is to be nearly all right")
        held = _teach(client, images, "labels mixed up", config)
        client.change_gate(dict.fromkeys(STRICT), reason="back to the defaults")
        client.pin(trunk, reason="the reference of the audit")
        client.put_test_set(TEST_SET, images / TEST_SET, reason="from the warehouse")
        _finish(client, client.evaluate([begun, trunk, merged, edited], test_set=TEST_SET)["job_id"])
        files = sorted((images / TEST_SET).rglob("*.png"))
        for image in [file for file in files if file.parent.name != rename[0]][:2]:
            client.correct(image, rename[1], reason="seen by eye")
        ask(client, files)
    return Filled(trunk, merged, edited, held)


def ask(client: Client, files: Sequence[Path]) -> None:
    """Send some requests, each of a few images."""
    for at in range(0, min(24, len(files)), 3):
        client.classify(files[at : at + 3])


def keys(path: Path) -> str:
    """Make three keys, one of them revoked; return the token of one that may do all."""
    file = KeyFile(path)
    token = file.create("ada", ["admin", "train", "classify"]).token
    file.create("camera 2", ["classify"])
    file.revoke(file.create("eve", ["train"]).key.id)
    return token


def _teach(client: Client, images: Path, task: str, config: Mapping[str, object], parent: str | None = None) -> str:
    accepted = client.teach(images / task, name=task, config=config, instant=False, parent=parent)
    return _finish(client, accepted["job_id"])


def _finish(client: Client, job_id: str) -> str:
    """Wait for a job; return the version that it made, or nothing if it made none."""
    *_, job = client.follow(job_id, poll_s=0.2)
    assert job["state"] == "succeeded", job["error"]
    result = job["result"]
    return (result["version_id"] if result else None) or ""

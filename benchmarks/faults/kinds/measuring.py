"""Faults that meet a test set while it is stored, and versions while they are measured on it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Sequence
from typing import Any, Final

from benchmarks.faults.checks import as_json
from benchmarks.faults.fault import Fault, busy
from benchmarks.faults.service import Answer, ServiceError
from benchmarks.faults.stage import BOUNDARY, Stage, Taught, form

NAME: Final = "field"
OLD, NEW = 40, 150
"""Images of each class, of the set that is there and of the one that replaces it."""
KILL: Final = signal.SIGKILL


def put(stage: Stage, images: int, classes: Sequence[str]) -> Answer:
    """Store a test set of so many images of each class."""
    headers = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
    body = form({"reason": "a fault is tried"}, archive=stage.pictures.archive(classes, images=images))
    return stage.service.ask("PUT", f"/v1/test-sets/{NAME}", body, headers, timeout_s=60)


def begin(stage: Stage) -> Sequence[str]:
    """Store a test set of the classes that are served, and return these."""
    classes = stage.classes()
    answer = put(stage, OLD, classes)
    if answer.status != 200:
        raise ServiceError(f"storing a test set was answered {answer}")
    return classes


def while_evaluating(fault: Callable[[Stage], object]) -> Callable[[Stage], None]:
    """Bring a fault about while two versions are measured. The job must end well all the same."""

    def inject(stage: Stage) -> None:
        begin(stage)
        answer = stage.service.ask("POST", "/v1/evaluations", {"versions": [stage.first, stage.base]})
        if answer.status != 202:
            raise ServiceError(f"an evaluation was answered {answer}")
        job_id = str(answer.json["job_id"])
        stage.jobs[job_id] = Taught(())
        stage.service.wait(lambda: stage.look(job_id).state != "queued", "a running evaluation")
        fault(stage)

    return inject


def while_replacing(fault: Callable[[Stage], object]) -> Callable[[Stage], None]:
    """Bring a fault about while a test set is replaced by a larger one."""

    def inject(stage: Stage) -> None:
        classes = begin(stage)
        sending = threading.Thread(target=put, args=(stage, NEW, classes), daemon=True)
        sending.start()
        sending.join(0.7)  # most of it is being checked, or written down
        fault(stage)
        sending.join(60)

    return inject


def is_whole(stage: Stage) -> list[str]:
    """What is wrong with the test set: it must be the old one or the new one, and every image where it belongs."""

    def asked() -> Any:
        answer = stage.service.ask("GET", f"/v1/test-sets/{NAME}", timeout_s=15)
        return as_json(answer) if answer.status == 200 else None

    found = stage.service.wait(asked, "the test set")
    count = len(found["images_per_class"])
    if found["images"] not in (OLD * count, NEW * count) or len(found["labels"]) != found["images"]:
        return [f"a replaced test set has {found['images']} images"]
    (folder,) = (stage.service.store / "test-sets").glob(f"{NAME}-*-*")
    stored = sum(1 for path in folder.iterdir() if path.name != "index.json")
    return [] if stored == found["images"] else [f"a test set of {found['images']} images has {stored} files"]


def remove(stage: Stage) -> None:
    """Remove the test set once nothing needs it: nothing of its images may be left then."""
    stage.finish([job_id for job_id, taught in stage.jobs.items() if not taught.classes])
    stage.service.wait(
        lambda: stage.service.ask("DELETE", f"/v1/test-sets/{NAME}").status in (200, 404), "the removal of a test set"
    )


def send(role: str) -> Callable[[Stage], object]:
    """Kill the processes of a role."""
    return lambda stage: stage.signal(role, KILL)


MEASURING: Final = (
    Fault("kill an evaluation", while_evaluating(send("child")), remove, job=False, quick=True),
    Fault("kill the worker during an evaluation", while_evaluating(send("worker")), remove, job=False),
    Fault("kill the broker during an evaluation", while_evaluating(send("broker")), remove, job=False),
    Fault("kill the servers while a test set is replaced", while_replacing(send("server")), remove, job=False,
          excused=busy, holds=is_whole, breaks=True, quick=True),
    Fault("kill the broker while a test set is replaced", while_replacing(send("broker")), remove, job=False,
          holds=is_whole),
)  # fmt: skip

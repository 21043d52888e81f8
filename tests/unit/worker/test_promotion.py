"""A published version becomes CURRENT, or is kept with the reason why not; and what a job that is run again finds."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from exchange.contracts import GateResult, JobRecord, UpdateJob, UpdateOutcome, utc_now
from exchange.roster import Roster, ServerReport
from model_store.store import Store, bootstrap
from model_store.types import JournalEntry, Provenance, VersionId
from tests.contract.states import learned
from tests.waiting import wait_until
from worker.pipeline import outcome_of
from worker.promotion import promote
from worker.settings import WorkerSettings
from worker.task_data import reason_of

Publish = Callable[[int], VersionId]


@pytest.fixture
def store(settings: WorkerSettings) -> Store:
    return Store(settings.store)


@pytest.fixture
def first(store: Store) -> VersionId:
    return bootstrap(store, learned(0))


@pytest.fixture
def job(submit: Callable[[], JobRecord]) -> UpdateJob:
    return submit().job.model_copy(update={"submitted_by": "ann"})


@pytest.fixture
def publish(store: Store, first: VersionId, job: UpdateJob) -> Publish:
    """Publish a version with so many classes on the first one, as the job's."""

    def make(classes: int) -> VersionId:
        provenance = Provenance(who="ann", job_id=job.job_id, report={"epochs": 1})
        return store.publish(learned(classes), parent=first, provenance=provenance).version_id

    return make


def resume(store: Store, job: UpdateJob, version: VersionId, settings: WorkerSettings) -> UpdateOutcome:
    return outcome_of(store, job, store.manifest(version), settings, lambda progress: None)


@contextmanager
def a_server(roster: Roster, serving: VersionId, *, refuses: str | None = None) -> Iterator[None]:
    """Reports to the roster; it is ready for any version, or refuses with this reason."""
    over = threading.Event()

    def serve() -> None:
        answered, wanted, current = None, None, serving
        while not over.wait(0.01):
            move = roster.report(
                ServerReport(
                    id="server",
                    host="here",
                    pid=1,
                    device="cpu",
                    serving=current,
                    prepared=wanted,
                    state="refused" if answered and refuses else "serving",
                    answered=answered,
                    reason=refuses,
                )
            )
            if move is not None and move.state == "preparing":
                answered, wanted = move.id, move.version_id
            elif move is not None and move.state == "committed":
                current = move.version_id

    thread = threading.Thread(target=serve)
    thread.start()
    wait_until(roster.servers)
    try:
        yield
    finally:
        over.set()
        thread.join()


def test_a_promotion_is_signed_and_says_what_it_is_for(
    settings: WorkerSettings, store: Store, job: UpdateJob, first: VersionId, publish: Publish
) -> None:
    version = publish(1)
    assert promote(store, job, version, first, settings) is None
    assert store.current() == version
    last = store.journal()[-1]
    assert (last.action, last.from_, last.to, last.who) == ("promote", first, version, "ann")
    assert last.reason == reason_of(job) == f"job {job.job_id} learned 'pets'"


def test_all_servers_serve_the_version_when_it_is_promoted(
    settings: WorkerSettings, store: Store, job: UpdateJob, first: VersionId, publish: Publish
) -> None:
    version = publish(1)
    roster = Roster(settings.redis_url, store.identity())
    with a_server(roster, first):
        assert promote(store, job, version, first, settings) is None
        assert [server.report.serving for server in roster.servers()] == [version]
    assert roster.members(version) == ("server",)
    roster.close()


def test_a_version_that_a_server_cannot_serve_is_kept_and_not_promoted(
    settings: WorkerSettings, store: Store, job: UpdateJob, first: VersionId, publish: Publish
) -> None:
    version = publish(1)
    roster = Roster(settings.redis_url, store.identity())
    with a_server(roster, first, refuses="no memory is left"):
        said = promote(store, job, version, first, settings)
    roster.close()
    assert said is not None
    assert "server: no memory is left" in said
    assert "can be promoted by hand" in said
    assert store.current() == first
    assert len(store.list()) == 2


def test_a_version_whose_parent_is_not_current_any_more_is_not_promoted(
    settings: WorkerSettings, store: Store, job: UpdateJob, first: VersionId, publish: Publish
) -> None:
    version = publish(1)
    other = store.publish(learned(2), parent=first, provenance=Provenance(who="admin")).version_id
    store.promote(other, expected=first, who="admin", reason="by hand")
    said = promote(store, job, version, first, settings)
    assert said is not None
    assert f"CURRENT was moved to {other} while this was learned on {first}" in said
    assert store.current() == other


def test_without_redis_the_version_is_promoted_all_the_same(
    settings: WorkerSettings, store: Store, job: UpdateJob, first: VersionId, publish: Publish
) -> None:
    version = publish(1)
    alone = settings.model_copy(update={"redis_url": "redis://127.0.0.1:1/0"})
    assert promote(store, job, version, first, alone) is None
    assert store.current() == version


def test_a_job_that_is_run_again_is_told_what_it_had_come_to(
    settings: WorkerSettings, store: Store, job: UpdateJob, first: VersionId, publish: Publish
) -> None:
    version = publish(1)
    for _ in range(2):
        outcome = resume(store, job, version, settings)
        assert (outcome.version_id, outcome.promoted, outcome.not_promoted_because) == (version, True, None)
        assert outcome.report == {"epochs": 1}
        assert store.current() == version
    assert [entry.action for entry in store.journal()].count("promote") == 2  # the first version's, and this one


def test_a_version_that_was_promoted_and_rolled_back_is_not_promoted_again(
    settings: WorkerSettings, store: Store, job: UpdateJob, first: VersionId, publish: Publish
) -> None:
    version = publish(1)
    promote(store, job, version, first, settings)
    store.rollback(first, who="admin", reason="no")
    outcome = resume(store, job, version, settings)
    assert outcome.promoted
    assert store.current() == first


def test_a_job_whose_version_is_held_is_told_so_and_nothing_is_promoted(
    settings: WorkerSettings, store: Store, job: UpdateJob, first: VersionId
) -> None:
    gate = GateResult(held_because=("one reason", "another"))
    report = {"epochs": 1, "gate": gate.model_dump(mode="json")}
    provenance = Provenance(who="ann", job_id=job.job_id, report=report)
    version = store.publish(learned(1), parent=first, provenance=provenance).version_id
    for _ in range(2):
        outcome = resume(store, job, version, settings)
        assert (outcome.promoted, outcome.held_because, outcome.gate) == (False, ("one reason", "another"), gate)
        assert outcome.not_promoted_because == "held: one reason; another"
        assert outcome.report == {"epochs": 1}
        assert store.current() == first
    assert [entry.action for entry in store.journal()].count("hold") == 1


def test_a_promotion_that_was_written_down_but_never_made_is_made(
    settings: WorkerSettings, store: Store, job: UpdateJob, first: VersionId, publish: Publish
) -> None:
    """The journal's line comes before the pointer's move; the machine may stop between the two."""
    version = publish(1)
    line = JournalEntry(at=utc_now(), who="ann", action="promote", from_=first, to=version, reason=reason_of(job))
    with (settings.store / "journal.jsonl").open("a") as journal:
        journal.write(line.model_dump_json(by_alias=True) + "\n")
    assert store.current() == first
    assert resume(store, job, version, settings).promoted
    assert store.current() == version

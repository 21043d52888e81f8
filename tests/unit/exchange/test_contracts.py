from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
from pydantic import ValidationError

from exchange.contracts import (
    ClassAccuracy,
    Evaluation,
    JobClass,
    JobError,
    JobProgress,
    JobRecord,
    JobState,
    OverallAccuracy,
    RejectedImage,
    UpdateJob,
    UpdateOutcome,
    ValidationReport,
    idempotency_key,
    new_job_id,
    record_from_hash,
    record_to_hash,
)

NOW = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)


def a_job(**changes: object) -> UpdateJob:
    fields: dict[str, object] = {
        "job_id": new_job_id(),
        "task_name": "pets",
        "classes": [{"name": "cat", "prompt": "a photo of a cat.", "images": 3}],
        "config": {"epochs": 2, "strategy": "naive"},
        "dataset_digest": "d" * 64,
        "submitted_at": NOW,
    }
    return UpdateJob.model_validate({**fields, **changes})


def test_a_full_record_survives_redis() -> None:
    overall = OverallAccuracy(images=4, text=0.5, visual=0.75, fused=1.0, left_one_out=1)
    of_class = ClassAccuracy(images=1, text=0.5, visual=0.75, fused=1.0, how="left_one_out")
    record = JobRecord(
        job=a_job(),
        validation=ValidationReport(
            classes={"cat": 3}, accepted=3, rejected=(RejectedImage(path="a.txt", reason="no image"),), rejected_count=1
        ),
        state=JobState.FAILED,
        progress=JobProgress(phase="train", step=1, steps=2, losses={"total": 0.5}, eta_s=1.5, updated_at=NOW),
        outcome=UpdateOutcome(
            version_id="000002-0123456789ab",
            promoted=False,
            not_promoted_because="CURRENT was moved",
            evaluation=Evaluation(seen_classes=2, overall=overall, per_class={"cat": of_class}),
            report={"seconds": {"train": 1.5}, "losses": [{"total": None}]},
        ),
        error=JobError(kind="StoreFullError", message="no space is left"),
        attempts=2,
        cancel_requested=True,
        created_at=NOW,
        started_at=NOW,
        finished_at=NOW,
        owner="me",
        heartbeat="17",
    )
    assert record_from_hash(record_to_hash(record)) == record


def test_a_new_record_survives_redis() -> None:
    record = JobRecord(job=a_job(), created_at=NOW)
    fields = record_to_hash(record)
    assert set(fields) == {"job", "state", "attempts", "cancel_requested", "created_at"}
    assert record_from_hash(fields) == record


def test_an_empty_hash_is_no_record() -> None:
    with pytest.raises(ValidationError):
        record_from_hash({})


def test_overrides_are_laid_over_the_learners_defaults() -> None:
    config = a_job().learner_config
    assert (config.epochs, config.strategy, config.batch_size) == (2, "naive", 64)


@pytest.mark.parametrize("config", [{"epoch": 2}, {"epochs": 0}, {"strategy": "magic"}])
def test_overrides_that_the_learner_does_not_know_are_refused(config: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        a_job(config=config)


@pytest.mark.parametrize(
    "changes",
    [{"classes": []}, {"job_id": "../x"}, {"job_id": "a" * 33}, {"seed": -1}, {"submitted_at": datetime(2026, 1, 1)}],
)
def test_impossible_jobs_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        a_job(**changes)


def test_final_states_are_the_last_three() -> None:
    assert [state for state in JobState if state.terminal] == ["succeeded", "failed", "cancelled"]


def test_a_clients_key_is_hashed_whatever_it_holds() -> None:
    assert idempotency_key("a b\n" * 1000).isascii()
    assert len(idempotency_key("a b\n" * 1000)) < 100
    assert idempotency_key("a") != idempotency_key("b")


def test_losses_that_are_not_numbers_cannot_break_a_record() -> None:
    outcome = UpdateOutcome(version_id="000002-0123456789ab", promoted=True, report={"loss": float("nan")})
    assert json.loads(outcome.model_dump_json())["report"] == {"loss": None}


def test_class_images_are_counted_from_one() -> None:
    with pytest.raises(ValidationError):
        JobClass(name="cat", prompt="a cat", images=0)


def test_a_job_teaches_or_merges_or_evaluates() -> None:
    two = ("000001-0123456789ab", "000002-0123456789ab")
    for wrong in ({"evaluates": two}, {"classes": ()}, {"classes": (), "evaluates": ()}):
        with pytest.raises(ValidationError, match="two versions to merge, an edit, or versions to evaluate"):
            a_job(**wrong)
    with pytest.raises(ValidationError, match="expected classes to learn"):
        a_job(classes=(), merges=two, evaluates=two)
    with pytest.raises(ValidationError, match="instant version"):
        a_job(classes=(), evaluates=two, instant=True)
    with pytest.raises(ValidationError, match="a check makes no instant version"):
        a_job(classes=(), evaluates=two, dry_run=True)
    with pytest.raises(ValidationError, match="a check makes no instant version"):
        a_job(instant=True, dry_run=True)
    assert (a_job(dry_run=True).is_quick, a_job().is_quick) == (True, False)
    job = a_job(classes=(), evaluates=two, test_set="field")
    assert record_from_hash(record_to_hash(JobRecord(job=job, created_at=NOW))).job == job
    assert job.can_wait
    assert not a_job().can_wait

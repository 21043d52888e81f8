from __future__ import annotations

import dataclasses
import errno
import io
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from exchange.contracts import JobClass, UpdateJob, UpdateOutcome, new_job_id, utc_now
from exchange.spool import Spool, SpoolError
from model_store.disk import Disk
from model_store.store import Store, bootstrap
from model_store.types import StoreFullError, VersionId
from segp_cl.data.image_sets import FolderImages
from segp_cl.errors import ClassExistsError
from segp_cl.learn.learner import initial_state
from segp_cl.models.backbone import Backbone
from segp_cl.runtime.classifier import Classifier
from segp_cl.runtime.golden import GoldenAnswers, record, replay
from segp_cl.types import ModelSpec, Progress
from tests.waiting import wait_until
from worker.pipeline import NotPublishedError, run_update
from worker.settings import WorkerSettings

Colours = Mapping[str, tuple[int, int, int]]
PETS: Colours = {"cat": (200, 40, 40), "dog": (40, 40, 200)}
BIRDS: Colours = {"owl": (40, 200, 40), "jay": (200, 200, 40)}


class StopHereError(Exception):
    pass


def picture(colour: tuple[int, int, int], number: int) -> bytes:
    out = io.BytesIO()
    image = Image.new("RGB", (36, 36), tuple(max(0, c - 2 * number) for c in colour))
    image.putpixel((number % 36, 3), (255, 255, 255))
    image.save(out, "PNG")
    return out.getvalue()


@pytest.fixture
def settings(tmp_path: Path, tiny_spec: ModelSpec) -> WorkerSettings:
    return WorkerSettings(
        store=tmp_path / "store",
        spool=tmp_path / "spool",
        model=tiny_spec.name,
        device="cpu",
        threads=1,
        holdout_fraction=0.25,
    )


@pytest.fixture
def store(settings: WorkerSettings) -> Store:
    return Store(settings.store)


@pytest.fixture
def first(store: Store, tiny_backbone: Backbone) -> VersionId:
    return bootstrap(store, initial_state(tiny_backbone))


def spooled(
    settings: WorkerSettings, colours: Colours, *, images: int = 8, extend: bool = False, **config: object
) -> UpdateJob:
    job_id = new_job_id()
    with Spool(settings.spool).create(job_id) as writer:
        for label, colour in enumerate(colours.values()):
            for number in range(images):
                writer.add(label, picture(colour, number), ".png")
        index = writer.close(list(colours))
    return UpdateJob.model_validate(
        {
            "job_id": job_id,
            "task_name": "animals",
            "classes": [JobClass(name=name, prompt=f"a photo of a {name}.", images=images) for name in colours],
            "extend": extend,
            "config": {"epochs": 1, "rank": 2, "k_seed": 2, "k_adv": 1, "batch_size": 8, **config},
            "dataset_digest": index.digest,
            "submitted_at": utc_now(),
            "submitted_by": "ann",
        }
    )


def update(job: UpdateJob, settings: WorkerSettings, **hooks: Callable[..., None]) -> UpdateOutcome:
    return run_update(job, settings, **{"on_progress": lambda _: None, **hooks})  # type: ignore[arg-type]


def test_an_update_waits_for_a_store_that_is_gone_and_begins_no_other(
    settings: WorkerSettings, store: Store, first: VersionId, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.pipeline._STORE_POLL_S", 0.01)
    job = spooled(settings, PETS, strategy="prototypes").model_copy(update={"submitted_on": first})
    away = settings.store.with_name("away")
    settings.store.rename(away)
    waited = 0

    def follow(progress: Progress) -> None:
        nonlocal waited
        if away.exists():
            assert progress.phase == "waiting"
            assert not settings.store.exists()
            waited += 1
            if waited == 3:
                away.rename(settings.store)

    outcome = update(job, settings, on_progress=follow)
    assert waited == 3
    assert store.manifest(outcome.version_id).parent == first


def test_an_update_waits_while_the_store_is_read_only_and_a_check_does_not(
    settings: WorkerSettings, store: Store, first: VersionId, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.pipeline._STORE_POLL_S", 0.01)
    usual, read_only = os.statvfs, True

    def statvfs(path: Path) -> SimpleNamespace:
        found = usual(path)
        return SimpleNamespace(f_flag=found.f_flag | os.ST_RDONLY if read_only else found.f_flag & ~os.ST_RDONLY)

    monkeypatch.setattr("model_store.reader.os.statvfs", statvfs)
    check = spooled(settings, PETS, strategy="prototypes").model_copy(update={"dry_run": True})
    assert update(check, settings).not_promoted_because == "it was checked, and nothing was learned"

    waited = 0

    def follow(progress: Progress) -> None:
        nonlocal waited, read_only
        if read_only:
            assert progress.phase == "waiting"
            waited += 1
            read_only = waited < 3

    outcome = update(spooled(settings, PETS, strategy="prototypes"), settings, on_progress=follow)
    assert waited == 3
    assert store.manifest(outcome.version_id).parent == first


def test_an_update_publishes_promotes_and_reports(settings: WorkerSettings, store: Store, first: VersionId) -> None:
    job = spooled(settings, PETS, strategy="prototypes")
    seen: list[Progress] = []
    outcome = update(job, settings, on_progress=seen.append)

    assert outcome.promoted
    assert store.current() == outcome.version_id
    manifest = store.manifest(outcome.version_id)
    assert manifest.parent == first
    assert manifest.job_id == job.job_id
    assert manifest.strategy == "prototypes"
    assert manifest.dataset is not None
    assert manifest.dataset.digest == job.dataset_digest
    assert manifest.dataset.images_per_class == {"cat": 6, "dog": 6}
    assert manifest.dataset.holdout_per_class == {"cat": 2, "dog": 2}
    assert [(c.name, c.images) for c in manifest.classes] == [("cat", 6), ("dog", 6)]
    assert manifest.preprocessing is not None
    assert manifest.preprocessing.size == 32
    assert store.journal()[-1].who == "ann"
    assert job.job_id in store.journal()[-1].reason

    assert outcome.evaluation is not None
    assert outcome.evaluation.seen_classes == 2
    assert outcome.evaluation.overall.images == 4
    assert outcome.evaluation.overall.visual == 1.0  # plain colours, even for random weights
    assert set(outcome.evaluation.per_class) == {"cat", "dog"}
    assert manifest.evaluation == outcome.evaluation.model_dump(mode="json")

    worker_seconds = outcome.report["worker_seconds"]
    assert isinstance(worker_seconds, dict)
    assert set(worker_seconds) == {"loading", "labels", "learning", "evaluating", "publishing"}
    peak = outcome.report["peak_rss_bytes"]
    assert isinstance(peak, int)
    assert 50e6 < peak < 50e9
    phases = list(dict.fromkeys(progress.phase for progress in seen))
    assert phases == ["waiting", "loading", "prototypes", "labels", "evaluating", "publishing"]


def test_the_second_update_learns_on_the_firsts_result(
    settings: WorkerSettings, store: Store, first: VersionId
) -> None:
    one = update(spooled(settings, PETS), settings)
    seen: list[Progress] = []
    two = update(spooled(settings, BIRDS), settings, on_progress=seen.append)
    assert store.manifest(two.version_id).parent == one.version_id
    assert store.open(two.version_id).class_names == ("cat", "dog", "owl", "jay")
    assert two.evaluation is not None
    assert two.evaluation.seen_classes == 4
    assert "anchors" in {progress.phase for progress in seen}
    steps = [progress for progress in seen if progress.phase == "train"]
    assert steps[-1].step == steps[-1].steps == len(steps)


def test_the_same_data_seed_and_parent_give_the_same_digest(
    settings: WorkerSettings, store: Store, first: VersionId
) -> None:
    one = update(spooled(settings, PETS), settings)
    store.rollback(first, who="test", reason="again")
    two = update(spooled(settings, PETS), settings)
    assert one.version_id != two.version_id
    assert store.manifest(one.version_id).content_digest == store.manifest(two.version_id).content_digest


def test_an_empty_store_gets_its_first_version_from_the_settings(settings: WorkerSettings, store: Store) -> None:
    outcome = update(spooled(settings, PETS, strategy="prototypes"), settings)
    assert [manifest.tasks for manifest in store.lineage()] == [1, 0]
    assert store.current() == outcome.version_id


def test_classes_with_few_images_are_learned_whole_and_measured_on_each_left_out(
    settings: WorkerSettings, store: Store, first: VersionId
) -> None:
    outcome = update(spooled(settings, PETS, images=3, strategy="prototypes"), settings)
    assert outcome.evaluation is not None
    overall = outcome.evaluation.overall
    assert (overall.images, overall.left_one_out, overall.only_images) == (6, 6, 0)
    assert overall.visual == 1.0
    assert {found.how for found in outcome.evaluation.per_class.values()} == {"left_one_out"}
    assert outcome.gate is not None
    held_out = next(found for found in outcome.gate.checks if found.name == "accuracy")
    assert (held_out.passed, held_out.reason) == (None, "no images were held out")


def test_without_a_share_to_hold_out_nothing_is_measured(
    settings: WorkerSettings, store: Store, first: VersionId
) -> None:
    off = settings.model_copy(update={"holdout_fraction": 0.0})
    assert update(spooled(settings, PETS, images=2, strategy="prototypes"), off).evaluation is None


def test_an_only_image_is_learned_and_answered_by_its_text(
    settings: WorkerSettings, store: Store, first: VersionId
) -> None:
    outcome = update(spooled(settings, PETS, images=1, strategy="prototypes"), settings)
    assert outcome.evaluation is not None
    overall = outcome.evaluation.overall
    assert (overall.left_one_out, overall.only_images, overall.visual) == (2, 2, 0.0)
    assert overall.fused == overall.text
    dataset = store.manifest(outcome.version_id).dataset
    assert dataset is not None
    assert dataset.images_per_class == {"cat": 1, "dog": 1}
    assert dataset.holdout_per_class == {"cat": 0, "dog": 0}


def test_a_val_split_is_what_is_measured_on_and_nothing_of_it_is_learned(
    settings: WorkerSettings, store: Store, first: VersionId, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = new_job_id()
    red, blue = PETS["cat"], PETS["dog"]
    with Spool(settings.spool).create(job_id) as writer:
        for number in range(8):
            writer.add(0, picture(red, number), ".png")
            writer.add(1, picture(blue, number), ".png")
        val = [picture(blue, 20), picture(blue, 21), picture(blue, 22)]
        for data in val:  # in the colour of the dogs, so that only these can be mistaken
            writer.add(0, data, ".png", held_out=True)
        index = writer.close(["cat", "dog"])
    job = spooled(settings, PETS, strategy="segp", fusion_holdout=0.25).model_copy(
        update={"job_id": job_id, "dataset_digest": index.digest}
    )
    read: list[list[bytes]] = []
    caching: list[bool] = []

    class Recorded(FolderImages):
        def pixels(self, indices: Sequence[int]) -> torch.Tensor:
            read.append([self._paths[index].read_bytes() for index in indices])
            caching.append(self._cache is not None)
            return super().pixels(indices)

    monkeypatch.setattr("worker.task_data.FolderImages", Recorded)
    outcome = update(job, settings)

    learned = [data for batch, cached in zip(read, caching, strict=True) if cached for data in batch]
    # labels are looked at first; five held-out images are few, so the gate looks at taught ones too
    *_, measured, taught = (batch for batch, cached in zip(read, caching, strict=True) if not cached)
    assert set(taught) <= set(learned)
    assert sorted(set(measured) & {picture(red, n) for n in range(8)}) == []
    assert sorted(data for data in measured if data in val) == sorted(val)
    assert not set(val) & set(learned)
    assert len(set(learned)) + len(measured) == 19
    assert outcome.evaluation is not None
    cat, dog = (outcome.evaluation.per_class[name] for name in ("cat", "dog"))
    assert (cat.images, cat.visual) == (3, 0.0)
    assert (dog.images, dog.visual) == (2, 1.0)  # it has no val split, so a quarter is drawn
    dataset = store.manifest(outcome.version_id).dataset
    assert dataset is not None
    assert (dataset.images_per_class, dataset.holdout_per_class) == ({"cat": 8, "dog": 6}, {"cat": 3, "dog": 2})


def test_a_rollback_meanwhile_keeps_the_version_from_being_promoted(
    settings: WorkerSettings, store: Store, first: VersionId
) -> None:
    parent = update(spooled(settings, PETS, strategy="prototypes"), settings).version_id
    job = spooled(settings, BIRDS, strategy="prototypes")

    def roll_back() -> None:
        store.rollback(first, who="admin", reason="the pets were wrong")

    outcome = update(job, settings, before_publish=roll_back)
    assert not outcome.promoted
    assert outcome.not_promoted_because is not None
    assert first in outcome.not_promoted_because
    assert store.current() == first
    assert store.manifest(outcome.version_id).parent == parent

    again = update(job, settings)
    assert (again.version_id, again.promoted) == (outcome.version_id, False)
    assert store.current() == first


def test_a_job_killed_between_publish_and_promote_is_only_promoted(
    settings: WorkerSettings, store: Store, first: VersionId, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = spooled(settings, PETS, strategy="prototypes")
    with monkeypatch.context() as patch:

        def die(*_: object, **__: object) -> None:
            raise StopHereError

        patch.setattr(Store, "promote", die)
        with pytest.raises(StopHereError):
            update(job, settings)
    (_, published) = store.list()
    assert store.current() == first
    Spool(settings.spool).purge(job.job_id)

    outcome = update(job, settings)
    assert outcome.version_id == published.version_id == store.current()
    assert outcome.promoted
    assert outcome.evaluation is not None
    assert len(store.list()) == 2


def test_resume_only_never_learns(settings: WorkerSettings, store: Store, first: VersionId) -> None:
    job = spooled(settings, PETS, strategy="prototypes")
    with pytest.raises(NotPublishedError):
        run_update(job, settings, on_progress=lambda _: None, resume_only=True)
    assert store.current() == first
    outcome = update(job, settings)
    assert run_update(job, settings, on_progress=lambda _: None, resume_only=True).version_id == outcome.version_id


@pytest.mark.parametrize("phase", ["waiting", "loading", "train", "evaluating"])
def test_stopping_at_a_step_leaves_no_version_and_frees_the_lineage(
    settings: WorkerSettings, store: Store, first: VersionId, phase: str
) -> None:
    def stop(progress: Progress) -> None:
        if progress.phase == phase:
            raise StopHereError

    with pytest.raises(StopHereError):
        update(spooled(settings, PETS), settings, on_progress=stop)
    assert [manifest.version_id for manifest in store.list()] == [first]
    with store.lineage_lock(timeout_s=0):
        pass


def test_an_update_waits_for_the_lineage_and_says_so(settings: WorkerSettings, store: Store, first: VersionId) -> None:
    job = spooled(settings, PETS, strategy="prototypes")
    seen: list[Progress] = []
    thread = threading.Thread(target=update, args=(job, settings), kwargs={"on_progress": seen.append})
    with store.lineage_lock():
        thread.start()
        wait_until(lambda: len(seen) >= 2)
        assert {progress.phase for progress in seen} == {"waiting"}
        assert store.current() == first
    thread.join(60)
    assert store.current() != first


def test_a_known_class_is_refused_unless_more_data_is_meant(
    settings: WorkerSettings, store: Store, first: VersionId
) -> None:
    update(spooled(settings, PETS, strategy="prototypes"), settings)
    with pytest.raises(ClassExistsError, match="cat"):
        update(spooled(settings, PETS, strategy="prototypes"), settings)
    outcome = update(spooled(settings, PETS, strategy="prototypes", extend=True), settings)
    assert [c.images for c in store.open(outcome.version_id).classes] == [12, 12]


def test_images_that_are_not_those_of_the_job_are_refused(
    settings: WorkerSettings, store: Store, first: VersionId
) -> None:
    job = spooled(settings, PETS)
    with pytest.raises(SpoolError, match="digest"):
        update(job.model_copy(update={"dataset_digest": "0" * 64}), settings)
    with pytest.raises(SpoolError, match="other classes"):
        update(job.model_copy(update={"classes": job.classes[::-1]}), settings)
    assert store.current() == first


def test_a_full_disk_while_publishing_leaves_the_old_version(
    settings: WorkerSettings, store: Store, first: VersionId, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = spooled(settings, PETS, strategy="prototypes")

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Disk, "write", full)
        with pytest.raises(StoreFullError):
            update(job, settings)
    assert store.current() == first
    assert len(store.list()) == 1
    assert update(job, settings).promoted


def test_what_is_published_can_be_asked_again(
    settings: WorkerSettings, store: Store, first: VersionId, tiny_backbone: Backbone
) -> None:
    outcome = update(spooled(settings, PETS, strategy="prototypes"), settings)
    content = store.read(outcome.version_id)
    assert content.golden is not None
    replay(Classifier(tiny_backbone, content.state), content.golden, tiny_backbone.preprocessing.size)


SWAPPED: Colours = {"cat": PETS["dog"], "dog": PETS["cat"]}


def test_a_version_that_has_not_learned_its_own_images_is_held(
    settings: WorkerSettings, store: Store, first: VersionId
) -> None:
    taught = update(spooled(settings, SWAPPED, images=16, strategy="prototypes", fusion_weight=100.0), settings)
    assert taught.promoted
    assert taught.gate is not None
    assert taught.held_because == taught.gate.held_because == ()

    job = spooled(settings, PETS, images=8, extend=True, strategy="prototypes")
    outcome = update(job, settings)
    assert outcome.evaluation is not None
    assert outcome.evaluation.overall.fused == 0.0  # twice as many images say the opposite
    assert not outcome.promoted
    assert store.current() == taught.version_id
    assert "0 of 16 images (12 taught, 4 held out) are right" in outcome.held_because[1]
    assert "0 of 12 taught images are right, of which the version before had 0" in outcome.held_because[2]
    assert outcome.not_promoted_because == f"held: {'; '.join(outcome.held_because)}"
    assert outcome.gate is not None
    assert [check.name for check in outcome.gate.checks if check.passed is False] == [
        "accuracy",
        "taught",
        "contradiction",
    ]
    report = store.manifest(outcome.version_id).report
    assert report is not None
    assert report["gate"] == outcome.gate.model_dump(mode="json")
    assert "gate" not in outcome.report
    last = store.journal()[-1]
    assert (last.action, last.to, last.who) == ("hold", outcome.version_id, "ann")
    assert last.reason == "; ".join(outcome.held_because)

    # whatever the policy has become, the same job finds the same decision
    store.change_gate({"enabled": False}, who="admin")
    again = update(job, settings)
    assert (again.version_id, again.promoted) == (outcome.version_id, False)
    assert (again.held_because, again.gate) == (outcome.held_because, outcome.gate)
    assert store.current() == taught.version_id

    store.promote(outcome.version_id, expected=taught.version_id, who="admin", reason="on purpose", anyway=True)
    assert update(job, settings).promoted


def test_an_update_that_ruins_the_old_classes_is_held(settings: WorkerSettings, store: Store, first: VersionId) -> None:
    parent = update(spooled(settings, {**PETS, **BIRDS}), settings).version_id
    more: Colours = {"cow": (120, 120, 120), "ant": (10, 10, 10)}
    outcome = update(spooled(settings, more, learning_rate=5.0, fusion_weight=0.0), settings)
    assert not outcome.promoted
    assert any(reason.startswith("old classes: ") for reason in outcome.held_because)
    assert store.current() == parent
    assert update(spooled(settings, more), settings).promoted


def test_a_gate_that_is_off_measures_nothing_and_holds_nothing(
    settings: WorkerSettings, store: Store, first: VersionId
) -> None:
    store.change_gate({"enabled": False}, who="admin")
    update(spooled(settings, PETS, strategy="prototypes"), settings)
    outcome = update(spooled(settings, BIRDS, learning_rate=5.0, fusion_weight=0.0), settings)
    assert outcome.promoted
    assert outcome.gate is not None
    assert (outcome.gate.enabled, outcome.gate.checks) == (False, ())


def test_a_job_killed_between_publish_and_its_outcome_is_held_all_the_same(
    settings: WorkerSettings, store: Store, first: VersionId, monkeypatch: pytest.MonkeyPatch
) -> None:
    parent = update(spooled(settings, SWAPPED, images=16, strategy="prototypes", fusion_weight=100.0), settings)
    job = spooled(settings, PETS, extend=True, strategy="prototypes")
    with monkeypatch.context() as patch:

        def die(*_: object, **__: object) -> None:
            raise StopHereError

        patch.setattr("worker.pipeline.outcome_of", die)
        with pytest.raises(StopHereError):
            update(job, settings)
    Spool(settings.spool).purge(job.job_id)
    store.change_gate({"enabled": False}, who="admin")
    outcome = run_update(job, settings, on_progress=lambda _: None, resume_only=True)
    assert outcome.held_because
    assert store.current() == parent.version_id


def test_golden_answers_that_are_not_finite_hold_the_version(
    settings: WorkerSettings, store: Store, first: VersionId, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(classifier: Classifier, size: int) -> GoldenAnswers:
        found = record(classifier, size)
        return dataclasses.replace(found, scores=torch.full_like(found.scores, float("nan")))

    monkeypatch.setattr("worker.judging.record", broken)
    outcome = update(spooled(settings, PETS, strategy="prototypes"), settings)
    assert outcome.held_because == ("4 golden answers are not finite",)
    assert store.read(outcome.version_id).golden is None

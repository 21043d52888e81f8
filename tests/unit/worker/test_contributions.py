"""What a task has in common with what is known: found before it is learned, and kept."""

from __future__ import annotations

import pytest
import torch

from exchange.contracts import CONTRIBUTIONS_KEY, ContributionReport
from model_store.store import Store
from model_store.types import VersionId
from segp_cl.contributions import LEAST_SPREAD, mean_cosine
from segp_cl.models.backbone import Backbone
from segp_cl.types import Progress, TaskClass
from tests.unit.worker.test_pipeline import BIRDS, PETS, first, settings, spooled, store, update
from worker.contributions import contributions_of
from worker.evidence import MOST_TAUGHT
from worker.pipeline import run_update
from worker.settings import WorkerSettings
from worker.task_data import TaskData

__all__ = ["first", "settings", "store"]


@pytest.fixture
def pets(settings: WorkerSettings, first: VersionId) -> VersionId:
    return update(spooled(settings, PETS, strategy="prototypes"), settings).version_id


def report_of(
    settings: WorkerSettings, store: Store, backbone: Backbone, parent: VersionId, **changes: object
) -> ContributionReport | None:
    data = TaskData.read(spooled(settings, BIRDS), settings)
    classes = [TaskClass(c.name, c.prompt) for c in data.job.classes]
    state = store.open(parent)
    return contributions_of(state, backbone, classes, data.images(settings, backbone), data.index, data.split)


def test_it_is_told_before_anything_is_learned_and_kept_in_the_manifest(
    settings: WorkerSettings, store: Store, pets: VersionId
) -> None:
    seen: list[object] = []
    job = spooled(settings, BIRDS, strategy="prototypes")
    outcome = run_update(job, settings, on_progress=seen.append, on_contributions=seen.append)
    place = next(at for at, told in enumerate(seen) if isinstance(told, ContributionReport))
    phases = [told.phase for told in seen[place:] if isinstance(told, Progress)]
    assert phases[0] in ("stem", "prototypes")
    told = seen[place]
    assert isinstance(told, ContributionReport)
    assert (told.new_classes, told.old_classes, told.images) == (2, 2, 12)
    report = store.manifest(outcome.version_id).report
    assert report is not None
    assert ContributionReport.model_validate(report[CONTRIBUTIONS_KEY]) == told
    assert CONTRIBUTIONS_KEY not in outcome.report


def test_it_is_found_by_several_threads(settings: WorkerSettings, pets: VersionId) -> None:
    several = settings.model_copy(update={"threads": 3})
    assert update(spooled(several, BIRDS, strategy="prototypes"), several).promoted


def test_the_first_task_and_more_images_of_known_classes_have_none(
    settings: WorkerSettings, store: Store, pets: VersionId
) -> None:
    seen: list[ContributionReport] = []
    run_update(
        spooled(settings, PETS, strategy="prototypes", extend=True),
        settings,
        on_progress=lambda _: None,
        on_contributions=seen.append,
    )
    assert seen == []
    report = store.manifest(pets).report
    assert report is not None
    assert CONTRIBUTIONS_KEY not in report


def test_the_scores_are_those_of_prototypes_and_images_in_the_base_models_space(
    settings: WorkerSettings, store: Store, pets: VersionId, tiny_backbone: Backbone
) -> None:
    report = report_of(settings, store, tiny_backbone, pets)
    assert report is not None
    state = store.open(pets)
    data = TaskData.read(spooled(settings, BIRDS), settings)
    with torch.no_grad():
        pixels = data.images(settings, tiny_backbone, data.split.train).pixels(range(len(data.split.train)))
        images = tiny_backbone.image_features(pixels.float() / 255)
        texts = tiny_backbone.text_features([c.prompt for c in data.job.classes])
        old = tiny_backbone.project(state.prototypes * 1.0)
    (task,) = report.tasks
    assert (task.task, task.classes) == (1, 2)
    assert task.image_to_image == pytest.approx(mean_cosine(old, images), abs=2e-3)
    assert task.image_to_text == pytest.approx(mean_cosine(old, texts), abs=2e-3)
    assert task.text_to_text == pytest.approx(mean_cosine(state.text_features, texts), abs=2e-3)
    assert set(report.nearest) == {"image_to_text", "text_to_image", "image_to_image", "text_to_text"}
    assert {pair.old for pair in report.nearest["image_to_image"]} == {"cat", "dog"}
    assert all(risk.margin < 0 for risk in report.at_risk)
    assert report.at_risk_count == len(report.at_risk)


def test_every_class_of_a_large_task_has_an_image(
    settings: WorkerSettings, store: Store, pets: VersionId, tiny_backbone: Backbone
) -> None:
    many = {f"class {number}": (3 * number, 255 - 3 * number, number) for number in range(MOST_TAUGHT + 6)}
    data = TaskData.read(spooled(settings, many, images=1), settings)
    classes = [TaskClass(c.name, c.prompt) for c in data.job.classes]
    images = data.images(settings, tiny_backbone)
    report = contributions_of(store.open(pets), tiny_backbone, classes, images, data.index, data.split)
    assert report is not None
    assert report.images == len(many)
    assert all(-1 <= pair.cosine <= 1 for pairs in report.nearest.values() for pair in pairs)


def test_a_forecast_needs_two_earlier_tasks_and_images_that_differ(
    settings: WorkerSettings, store: Store, pets: VersionId, tiny_backbone: Backbone
) -> None:
    report = report_of(settings, store, tiny_backbone, pets)
    assert report is not None
    assert report.forecast is None
    assert report.no_forecast_because is not None
    if report.sigma_image < LEAST_SPREAD:
        assert "too much alike" in report.no_forecast_because
    else:
        assert "one earlier task" in report.no_forecast_because


@pytest.mark.parametrize(("spread", "given"), [(0.05, False), (0.2, True)])
def test_the_spread_decides_whether_a_forecast_is_given(
    settings: WorkerSettings,
    store: Store,
    pets: VersionId,
    tiny_backbone: Backbone,
    monkeypatch: pytest.MonkeyPatch,
    spread: float,
    given: bool,
) -> None:
    more = update(spooled(settings, {"ant": (9, 200, 9)}, strategy="prototypes"), settings).version_id
    monkeypatch.setattr("worker.contributions.image_spread", lambda one, other: spread)
    report = report_of(settings, store, tiny_backbone, more)
    assert report is not None
    assert (report.forecast is not None) == given
    assert (report.no_forecast_because is None) == given
    if report.forecast is not None:
        scores = {task.task: task.image_to_text for task in report.tasks}
        assert sorted(scores, key=lambda task: -scores[task]) == list(report.forecast.most_affected)


def test_where_the_tower_was_moved_the_versions_own_towers_are_the_frozen_model(
    settings: WorkerSettings, store: Store, first: VersionId, tiny_backbone: Backbone
) -> None:
    trained = update(spooled(settings, PETS, strategy="naive", image_rate=1.0), settings).version_id
    state = store.open(trained)
    assert state.moves_image_tower
    report = report_of(settings, store, tiny_backbone, trained)
    assert report is not None
    with torch.no_grad():
        own = tiny_backbone.with_lora(state.lora).project(state.prototypes)
        texts = tiny_backbone.with_lora(state.lora).text_features(["a photo of a owl.", "a photo of a jay."])
    assert report.tasks[0].image_to_text == pytest.approx(mean_cosine(own, texts), abs=2e-3)

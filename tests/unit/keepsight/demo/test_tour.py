"""The demo's measurements and checks, over answers that are known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from keepsight.client import Client
from keepsight.demo import measure as demo_measure
from keepsight.demo.data import DemoData, DemoTask
from keepsight.demo.errors import DemoError
from keepsight.demo.measure import Accuracy, Measured, SteadyClient, accuracy_of, measure, same_answer
from keepsight.demo.report import Tour
from keepsight.demo.service import MARKER, make_folder
from keepsight.demo.tour import check_learned, check_nothing_kept, compare
from tests.waiting import wait_until


def prediction(label: str, text: float, visual: float | None) -> Any:
    return {
        "label": label,
        "score": text,
        "text_score": text,
        "visual_score": visual,
        "fused_score": None,
        "probability": 0.5,
    }


def answer(*predictions: Any) -> Any:
    return {"index": 0, "filename": "x", "predictions": list(predictions), "error": None}


@pytest.fixture
def data(tmp_path: Path) -> DemoData:
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(name.encode())
    held_out = ((tmp_path / "a.png", "a"), (tmp_path / "b.png", "b"))
    first = DemoTask("first", ("a", "b"), (), held_out)
    second = DemoTask("second", ("c", "d"), (), ((tmp_path / "a.png", "c"),))
    return DemoData("letters", "a {}.", (first, second), margin=0.25)


def test_one_answer_gives_the_accuracy_of_every_path(data: DemoData) -> None:
    results: list[Any] = [
        answer(prediction("a", 0.1, 0.9), prediction("b", 0.3, 0.2)),  # fused and visual right, text wrong
        answer(prediction("a", 0.1, 0.9), prediction("b", 0.3, 0.2)),  # text right
    ]
    assert accuracy_of(results, data.tasks[0], among=2, taught=True) == Accuracy(0.5, 0.5, 0.5, 2, True)


def test_a_task_that_was_not_taught_has_the_text_path_only(data: DemoData) -> None:
    results: list[Any] = [answer(prediction("c", 0.3, None), prediction("a", 0.2, None))]
    assert accuracy_of(results, data.tasks[1], among=4, taught=False) == Accuracy(1.0, None, None, 4, False)


def test_images_that_cannot_be_read_are_left_out_but_not_all_of_them(data: DemoData) -> None:
    broken: Any = {"index": 0, "filename": "x", "predictions": [], "error": {"detail": "broken"}}
    good: Any = answer(prediction("b", 0.3, 0.3))
    assert accuracy_of([broken, good], data.tasks[0], among=2, taught=True).fused == 1.0
    with pytest.raises(DemoError, match="none of the held-out images of 'first' could be read"):
        accuracy_of([broken, broken], data.tasks[0], among=2, taught=True)


def test_measuring_asks_for_all_classes_and_for_words_where_nothing_was_taught(service: Any, data: DemoData) -> None:
    both = [answer(prediction("a", 0.1, 0.9)), answer(prediction("b", 0.1, 0.9))]
    service.script["POST /v1/classify"] = [
        {"model_version": "v2", "results": both},
        {"model_version": "v2", "results": [answer(prediction("c", 0.1, None))]},
    ]
    measured = measure(service.client(), data, taught=1)
    assert measured.version_id == "v2"
    assert measured.accuracy["first"] == Accuracy(0.0 + 1.0, 1.0, 1.0, 2, True)
    assert measured.accuracy["second"].among == 4
    taught, untaught = (request.content for request in service.requests)
    assert b'name="top_k"\r\n\r\n2' in taught
    assert b'name="labels"' not in taught
    assert untaught.count(b'name="labels"') == 4


def test_a_version_that_changes_while_it_is_measured_is_an_error(service: Any, data: DemoData) -> None:
    both = [answer(prediction("a", 0.1, 0.9)), answer(prediction("b", 0.1, 0.9))]
    service.script["POST /v1/classify"] = [
        {"model_version": "v2", "results": both},
        {"model_version": "v3", "results": both[:1]},
    ]
    with pytest.raises(DemoError, match="moved between v2, v3"):
        measure(service.client(), data, taught=2)


def measured_as(version: str, score: float, data: DemoData, fused: float = 0.9) -> Measured:
    results: Any = [answer(prediction("a", score, 0.5))]
    return Measured(version, {"first": Accuracy(0.5, 0.5, fused, 4, True)}, {data.tasks[0].name: results})


@pytest.mark.parametrize(
    ("version", "score", "served", "held"),
    [("v2", 0.1 + 1e-6, "v2", True), ("v2", 0.101, "v2", False), ("v3", 0.1, "v2", False), ("v2", 0.1, "v3", False)],
)
def test_the_same_answers_are_those_of_the_same_version_but_for_rounding(
    data: DemoData, version: str, score: float, served: str, held: bool
) -> None:
    tour = Tour()
    compare(tour, "rollback", measured_as("v2", 0.1, data), measured_as(version, score, data), served=served)
    assert [check.held for check in tour.checks] == [held]


def test_labels_that_are_as_good_may_change_places_and_nothing_else_may() -> None:
    one, other = prediction("a", 0.1, 0.9), prediction("b", 0.1, 0.9)
    assert same_answer(answer(one, other), answer(other, one))
    assert not same_answer(answer(one, other), answer(one))
    assert not same_answer(answer(one), answer(prediction("b", 0.1, 0.9)))
    assert not same_answer(answer(one), answer(prediction("a", 0.1, 0.8)))
    assert not same_answer(answer(one), answer(prediction("a", 0.1, None)))
    refused: Any = {**answer(one), "error": {"type": "t", "title": "t", "status": 422}}
    assert not same_answer(answer(one), refused)


@pytest.mark.parametrize(("fused", "held"), [(0.43, False), (0.44, True)])
def test_learned_means_above_chance_by_the_margin(data: DemoData, fused: float, held: bool) -> None:
    tour = Tour()
    check_learned(tour, data, 1, "task 1 learned", measured_as("v2", 0.1, data, fused=fused))
    assert [check.held for check in tour.checks] == [held]  # chance 0.25, and a quarter of the rest


def test_a_file_left_in_the_spool_is_found(tmp_path: Path) -> None:
    tour = Tour()
    check_nothing_kept(tour, tmp_path)
    (tmp_path / "spool" / "job").mkdir(parents=True)
    (tmp_path / "spool" / "job" / "0.png").write_bytes(b"x")
    check_nothing_kept(tour, tmp_path)
    assert [check.held for check in tour.checks] == [True, False]


def test_only_a_demos_own_folder_is_ever_emptied(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years of work")
    with pytest.raises(DemoError, match="holds files that are not a demo's"):
        make_folder(mine)
    assert (mine / "thesis.txt").exists()
    demo = tmp_path / "new" / "demo"
    make_folder(demo)
    (demo / "old").touch()
    make_folder(demo)
    assert [path.name for path in demo.iterdir() if path.name != "store.up.lock"] == [MARKER]


@pytest.fixture
def no_pause(monkeypatch: pytest.MonkeyPatch, service: Any) -> None:
    monkeypatch.setattr(demo_measure, "STEADY_INTERVAL_S", 0.01)
    monkeypatch.setattr(
        demo_measure,
        "Client",
        lambda url, retries: Client(url, retries=retries, transport=httpx.MockTransport(service)),
    )


@pytest.mark.usefixtures("no_pause")
def test_the_steady_client_counts_every_request_that_failed(service: Any, data: DemoData, tmp_path: Path) -> None:
    good = {"model_version": "v1", "results": [answer(prediction("a", 0.1, None))]}
    empty = {"model_version": "v1", "results": [answer()]}
    service.script["POST /v1/classify"] = [good, service.problem(503, "away"), httpx.ReadError("cut"), empty, good]
    steady = SteadyClient("http://fake", tmp_path / "a.png", data.classes, data.template)
    with steady:
        wait_until(lambda: steady.report.requests >= 6)
    assert len(steady.report.failures) == 3
    assert steady.report.versions == ["v1"]


@pytest.mark.usefixtures("no_pause")
def test_the_steady_client_sees_versions_come_and_go(service: Any, data: DemoData, tmp_path: Path) -> None:
    service.script["POST /v1/classify"] = [
        {"model_version": version, "results": [answer(prediction("a", 0.1, None))]}
        for version in ("v1", "v1", "v2", "v1")
    ]
    steady = SteadyClient("http://fake", tmp_path / "a.png", data.classes, data.template)
    with steady:
        wait_until(lambda: steady.report.requests >= 6)
    assert steady.report.versions == ["v1", "v2", "v1"]
    assert steady.report.failures == []

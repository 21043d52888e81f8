"""The report over a lineage and the comparison of two versions, on answers that are written by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import torch

from app.errors import NotEvaluatedError
from app.evaluations import compare, evaluation_of, report_of
from app.metrics import Metrics
from app.test_set_gauges import _Known
from model_store.evaluations import Evaluations, PathAnswers, StoredEvaluation
from model_store.store import Store, bootstrap
from model_store.test_sets import SourceImage, StoredTestSet, StoredTestSets
from model_store.types import NoSuchTestSetError, Provenance, VersionId, VersionNotFoundError
from segp_cl.types import LearnedClass
from tests.contract.states import learned
from worker.on_test_sets import result_of

NAMES = ("cat", "dog", "owl")
TASKS = {"cat": 1, "dog": 1, "owl": 2}
Right = Mapping[str, Sequence[str | None]]
"""The fused answers to the images of each class, in order."""


class Bench:
    """A store with a version after each task, and a test set with four images of each class."""

    def __init__(self, root: Path) -> None:
        self.store = Store(root)
        self.sets = StoredTestSets(root)
        self.evaluations = Evaluations(root)
        self.versions = [bootstrap(self.store, learned(0)), *map(self.publish, (1, 2))]

    def publish(self, tasks: int) -> VersionId:
        names = [name for name in NAMES if TASKS[name] <= tasks]
        classes = tuple(LearnedClass(name, f"a photo of a {name}.", TASKS[name], 5) for name in names)
        state = replace(
            learned(len(names)),
            classes=classes,
            tasks=tasks,
            prototypes=torch.ones(len(names), 8),
            text_features=torch.ones(len(names), 4),
        )
        parent = self.store.list()[-1].version_id
        provenance = Provenance(libraries={}, report={"worker_seconds": {"loading": 1.5, "learning": 2.0}})
        return self.store.publish(state, parent=parent, provenance=provenance).version_id

    def put(self, name: str = "field", *, images: int = 4, begin: int = 0) -> StoredTestSet:
        folder = self.store.root.parent / "images"
        folder.mkdir(exist_ok=True)
        sources = []
        for label in range(len(NAMES)):
            for number in range(begin, begin + images):
                path = folder / f"{label}-{number}.png"
                path.write_text(f"{label} {number}")
                sources.append(SourceImage(path, label))
        return self.sets.put(name, NAMES, sources, who="ann", lifetime=timedelta(days=1))

    def answer(self, version: VersionId, test_set: StoredTestSet, fused: Right, *, numbers: Sequence[int] = ()) -> None:
        """Store a version's answers to the first images of each class."""
        known = [c.name for c in self.store.manifest(version).classes]
        names = (*known, *(name for name in NAMES if name not in known))
        images = self.sets.read(test_set)
        asked = numbers or range(len(images.labels))
        labels = [NAMES[images.labels[number]] for number in asked]
        left = {name: list(answers) for name, answers in fused.items()}
        given = [left[label].pop(0) if label in left else None for label in labels]
        answers = tuple(None if answer is None else names.index(answer) for answer in given)
        stored = StoredEvaluation(
            version_id=version,
            test_set=test_set.name,
            digest=test_set.digest,
            at=datetime.now(UTC),
            seconds=0.5,
            images_in_all=test_set.images,
            results={},
            names=names,
            known=len(known),
            numbers=tuple(asked),
            labels=tuple(names.index(label) for label in labels),
            answers=PathAnswers(text=(None,) * len(answers), visual=(None,) * len(answers), fused=answers),
            probability=(0.5,) * len(answers),
            unknown=None,
            label_sets=None,
        )
        results = result_of(stored).model_dump(mode="json")
        self.evaluations.save(stored.model_copy(update={"results": results}))


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path / "store")


def right(name: str, count: int, otherwise: str) -> list[str]:
    return [name] * count + [otherwise] * (4 - count)


def test_the_report_is_r_over_the_tasks_of_the_lineage(bench: Bench) -> None:
    _, one, two = bench.versions
    field = bench.put()
    bench.answer(one, field, {"cat": right("cat", 4, "dog"), "dog": right("dog", 3, "cat")})
    bench.answer(
        two, field, {"cat": right("cat", 2, "owl"), "dog": right("dog", 3, "owl"), "owl": right("owl", 3, "cat")}
    )
    found = report_of(bench.store, bench.sets, two, path="fused", test_set=None)
    assert [(task.task, task.classes, task.test_images) for task in found.tasks] == [
        (1, ["cat", "dog"], 8),
        (2, ["owl"], 4),
    ]
    assert [(row.version_id, row.accuracies, row.seen) for row in found.rows] == [
        (one, [7 / 8, None], 7 / 8),
        (two, [5 / 8, 3 / 4], 8 / 12),
    ]
    assert found.last == pytest.approx(8 / 12)
    assert found.average == pytest.approx((7 / 8 + 8 / 12) / 2)
    assert found.backward_transfer == pytest.approx(5 / 8 - 7 / 8)
    assert found.forgetting == pytest.approx(7 / 8 - 5 / 8)
    assert (found.not_measured, found.measure) == ([], None)
    assert found.rows[1].by_test_set == {"field": 8 / 12}
    text = report_of(bench.store, bench.sets, two, path="text", test_set=None)
    assert text.last == 0.0


def test_what_was_not_measured_is_null_and_the_command_that_measures_it_is_said(bench: Bench) -> None:
    _, one, two = bench.versions
    field = bench.put()
    bench.answer(two, field, {"cat": ["cat"] * 4, "dog": ["dog"] * 4, "owl": ["owl"] * 4})
    found = report_of(bench.store, bench.sets, two, path="fused", test_set=None)
    assert [row.accuracies for row in found.rows] == [[None, None], [1.0, 1.0]]
    assert (found.last, found.average, found.backward_transfer, found.forgetting) == (1.0, None, None, None)
    assert [(cell.version_id, cell.test_set) for cell in found.not_measured] == [(one, "field")]
    assert found.measure == f"keepsight evaluate {one} --test-set field"
    other = bench.put("other", begin=4)
    both = report_of(bench.store, bench.sets, two, path="fused", test_set=None)
    assert both.measure == f"keepsight evaluate {one} {two}"
    assert both.rows[1].accuracies == [None, None], "a set that was not measured may say otherwise"
    assert both.rows[1].by_test_set == {"field": 1.0, "other": None}
    only = report_of(bench.store, bench.sets, two, path="fused", test_set="other")
    assert only.measure == f"keepsight evaluate {one} {two} --test-set other"
    assert other.images == 12


def test_a_part_of_a_set_is_reported_as_a_part(bench: Bench) -> None:
    one = bench.versions[1]
    bench.answer(one, bench.put(), {"cat": ["cat", "dog"]}, numbers=[0, 1])
    found = report_of(bench.store, bench.sets, one, path="fused", test_set=None)
    assert [(row.accuracies, row.in_part) for row in found.rows] == [([0.5], True)]
    assert found.forgetting is None, "one task"


def test_a_report_without_test_sets_or_classes_says_so(bench: Bench) -> None:
    first, _, two = bench.versions
    found = report_of(bench.store, bench.sets, two, path="fused", test_set=None)
    assert (found.test_sets, found.last, found.measure) == ([], None, None)
    assert report_of(bench.store, bench.sets, first, path="fused", test_set=None).rows == []
    with pytest.raises(NoSuchTestSetError):
        report_of(bench.store, bench.sets, two, path="fused", test_set="none")
    with pytest.raises(VersionNotFoundError):
        report_of(bench.store, bench.sets, "000099-0123456789ab", path="fused", test_set=None)


def test_two_versions_are_compared_on_images_whose_labels_both_know(bench: Bench) -> None:
    _, one, two = bench.versions
    field = bench.put()
    bench.answer(one, field, {"cat": right("cat", 4, "dog"), "dog": ["dog", "dog", "dog", None]})
    bench.answer(two, field, {"cat": right("cat", 1, "owl"), "dog": ["cat", "dog", "dog", "dog"], "owl": ["owl"] * 4})
    found = compare(bench.store, bench.sets, one, two, test_set=None, most=2)
    overall = found.overall
    assert (overall.images, overall.wins, overall.losses, overall.ties) == (8, 4, 1, 3)
    assert (overall.right_a, overall.right_b) == (7, 4)
    assert (overall.only_a_knows, overall.only_b_knows) == (0, 4)
    assert overall.p_value == pytest.approx(2 * (1 + 5) / 2**5)  # by hand: one of five or fewer, on both sides
    assert [(each.label, each.wins, each.losses) for each in found.per_class] == [("cat", 3, 0), ("dog", 1, 1)]
    assert found.changed_count == 5
    assert [(each.image, each.label, each.a, each.b) for each in found.changed] == [
        (1, "cat", "cat", "owl"),
        (2, "cat", "cat", "owl"),
    ]
    assert found.changed[0].sha256 == bench.sets.read(field).checksums[1]
    assert found.cost["a"].update_s == 3.5
    assert found.cost["b"].bytes == bench.store.bytes_of(two)
    back = compare(bench.store, bench.sets, two, one, test_set="field", most=0)
    assert (back.overall.wins, back.overall.losses, back.overall.only_a_knows) == (1, 4, 4)
    assert (back.changed, back.changed_count) == ([], 5)


def test_an_image_that_lies_in_two_sets_counts_once_in_all(bench: Bench) -> None:
    _, one, two = bench.versions
    for test_set in (bench.put("a"), bench.put("b")):
        bench.answer(one, test_set, {"cat": ["cat"] * 4, "dog": ["dog"] * 4})
        bench.answer(two, test_set, {"cat": ["owl"] * 4, "dog": ["dog"] * 4, "owl": ["owl"] * 4})
    found = compare(bench.store, bench.sets, one, two, test_set=None, most=100)
    assert [(each.test_set, each.images, each.wins) for each in found.test_sets] == [("a", 8, 4), ("b", 8, 4)]
    assert (found.overall.images, found.overall.wins, found.changed_count) == (8, 4, 4)


def test_a_version_that_was_not_measured_is_named_with_the_command(bench: Bench) -> None:
    _, one, two = bench.versions
    with pytest.raises(NoSuchTestSetError, match="there are no test sets"):
        compare(bench.store, bench.sets, one, two, test_set=None, most=1)
    field = bench.put()
    bench.answer(one, field, {"cat": ["cat"] * 4, "dog": ["dog"] * 4})
    with pytest.raises(NotEvaluatedError, match=f"keepsight evaluate {two} --test-set field") as found:
        compare(bench.store, bench.sets, one, two, test_set="field", most=1)
    assert found.value.extensions["measure"] == f"keepsight evaluate {two} --test-set field"
    with pytest.raises(NotEvaluatedError, match=f"keepsight evaluate {two}$"):
        compare(bench.store, bench.sets, one, two, test_set=None, most=1)
    with pytest.raises(NotEvaluatedError, match=f"keepsight evaluate {two} --test-set field"):
        evaluation_of(bench.store, bench.sets, two, "field")
    assert evaluation_of(bench.store, bench.sets, one, "field").overall is not None
    bench.answer(two, field, {})
    bench.put("more", begin=4)
    partly = compare(bench.store, bench.sets, one, two, test_set=None, most=1)
    assert partly.measure == f"keepsight evaluate {one} {two} --test-set more"


def test_the_gauges_are_those_of_the_served_version_and_vanish_with_the_set(bench: Bench) -> None:
    _, one, two = bench.versions
    field = bench.put()
    bench.answer(one, field, {"cat": ["cat"] * 4, "dog": right("dog", 2, "cat")})
    known, metrics = _Known(bench.sets), Metrics()

    def shown(version: VersionId) -> str:
        metrics.set_test_sets(known.of(version))
        return metrics.render().decode()

    line = 'keepsight_test_set_accuracy{path="fused",test_set="field"}'
    assert f"{line} 0.75" in shown(one)
    assert line not in shown(two)
    bench.answer(one, field, {"cat": ["cat"] * 4, "dog": ["dog"] * 4})
    assert f"{line} 1.0" in shown(one)
    bench.sets.remove("field", who="ann")
    assert line not in shown(one)

"""Contributions between tasks: correlations and orders by hand, a whole measurement on a miniature, and its pages."""

from __future__ import annotations

import json
from dataclasses import replace
from hashlib import sha256
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from typer.testing import CliRunner

from benchmarks.accuracy import cli
from benchmarks.accuracy.benchmark import Options, run_benchmark
from benchmarks.accuracy.contributions.forecast import (
    Correlation,
    Learned,
    compare_orders,
    correlate,
    correlate_orders,
    forgotten,
    mean_matrix,
)
from benchmarks.accuracy.contributions.report import (
    SCATTER,
    TITLE,
    heat_maps,
    verdict,
    with_features,
    with_set,
    write_set,
)
from benchmarks.accuracy.contributions.run import FeaturesRecord, SetRecord, matrices_of, run_features, run_set
from benchmarks.accuracy.contributions.tables import TaskSide, compare, sides_of_bench
from benchmarks.accuracy.datasets import Dataset, DatasetError
from benchmarks.accuracy.features.file import read_features
from benchmarks.accuracy.features.run import FeatureRecord
from benchmarks.accuracy.protocol import make_bench
from benchmarks.accuracy.record import BenchmarkRecord
from benchmarks.accuracy.report import write_report
from benchmarks.accuracy.rows import Row, choose_rows
from segp_cl.contributions import LEAST_SPREAD, MODALITIES
from segp_cl.models.backbone import Backbone
from segp_cl.types import ModelSpec
from tests.tolerances import FLOAT64_REORDERED

OPTIONS = Options(
    seeds=(0,), train_per_class=4, test_per_class=2, settings={"epochs": 1, "batch_size": 8, "rank": 4, "k_adv": 1}
)
NAIVE = ("naive", Row("naive", "text"))
E1, E2, E3 = torch.eye(3).unbind()

# by learning task 1, task 0 falls by .1; by learning task 2, task 0 by .2 and task 1 by .4
FALLS = ((1.0, 0.0, 0.0), (0.9, 0.9, 0.0), (0.7, 0.5, 0.8))


def test_a_score_that_is_what_was_forgotten_correlates_perfectly() -> None:
    scores = ((0.0, 0.1, 0.2), (9.0, 0.0, 0.4), (9.0, 9.0, 0.0))
    found = correlate(scores, [(range(3), FALLS)])
    assert found is not None
    assert found.pairs == 3
    assert found.pearson == pytest.approx(1.0)
    assert found.spearman == pytest.approx(1.0)


def test_ranks_do_not_ask_for_a_straight_line() -> None:
    found = correlate(((0.0, 1.0, 2.0), (0.0, 0.0, 900.0), (0.0, 0.0, 0.0)), [(range(3), FALLS)])
    assert found is not None
    assert found.spearman == pytest.approx(1.0)
    assert 0.5 < found.pearson < 0.95


def test_the_p_value_is_that_of_all_relabellings() -> None:
    scores = torch.rand(4, 4, generator=torch.Generator().manual_seed(1)).tolist()
    accuracies = torch.rand(4, 4, generator=torch.Generator().manual_seed(2)).tolist()
    found = correlate(scores, [(range(4), accuracies)])
    _, fallen = forgotten(scores, [(range(4), accuracies)])
    table = np.array(scores)
    each = [
        np.corrcoef(forgotten(table[np.ix_(labels, labels)].tolist(), [(range(4), accuracies)])[0], fallen)[0, 1]
        for labels in permutations(range(4))
    ]
    assert found is not None
    assert found.pearson == pytest.approx(each[0])
    above, below = (np.mean(each >= each[0] - 1e-12), np.mean(each <= each[0] + 1e-12))
    assert found.pearson_p == pytest.approx(min(1.0, 2 * min(above, below)))


def test_pairs_of_another_order_are_found_by_their_tasks() -> None:
    scores = ((0.0, 1.0, 2.0), (3.0, 0.0, 4.0), (5.0, 6.0, 0.0))
    values, fallen = forgotten(scores, [((2, 0, 1), FALLS)])
    assert values == [5.0, 6.0, 1.0]  # (2, 0), (2, 1), (0, 1)
    assert fallen == pytest.approx([0.1, 0.2, 0.4])


def test_what_does_not_vary_has_no_correlation() -> None:
    assert correlate(((0.5,) * 3,) * 3, [(range(3), FALLS)]) is None
    assert correlate(torch.rand(3, 3).tolist(), [(range(3), ((0.5,) * 3,) * 3)]) is None
    assert correlate(((0.0, 1.0), (1.0, 0.0)), [(range(2), ((1.0, 0.0), (0.5, 1.0)))]) is None


def test_a_verdict_needs_the_sign_the_size_and_the_chance() -> None:
    def of(r: float, p: float) -> Correlation:
        return Correlation(pairs=9, pearson=r, pearson_p=p, spearman=r, spearman_p=p)

    assert verdict(of(0.5, 0.01)) == "right sign"
    assert verdict(of(0.5, 0.2)) == "right sign, may be chance"
    assert verdict(of(-0.5, 0.01)) == "wrong sign"
    assert verdict(of(-0.05, 0.9)) == "nothing to be seen"
    assert verdict(None) == "not defined"


def test_no_random_order_is_below_the_suggested_one() -> None:
    scores = torch.rand(6, 6, generator=torch.Generator().manual_seed(0)).tolist()
    found = compare_orders(scores)
    assert sorted(found.suggested) == list(range(6))
    assert found.below == 0.0
    assert found.score <= found.random_least < found.random_mean
    assert found.own == pytest.approx(sum(scores[task][task + 1] for task in range(5)))


def learned(score: float, forgetting: float) -> Learned:
    return Learned(order=(0, 1), suggested=False, score=score, last=0.5, forgetting=forgetting, accuracies=())


def test_orders_correlate_by_their_summed_score() -> None:
    found = correlate_orders(
        [learned(score, 2 * score + bent) for score, bent in zip(range(5), (0, 1, 0, 1, 0), strict=True)]
    )
    assert found is not None
    expected = np.corrcoef(range(5), [0, 3, 4, 7, 8])[0, 1]
    assert found.pearson == pytest.approx(expected)
    assert found.low < expected < found.high
    assert correlate_orders([learned(score, 0.5) for score in range(5)]) is None
    assert correlate_orders([learned(score, score) for score in range(3)]) is None


def test_seeds_are_averaged_entry_by_entry() -> None:
    assert mean_matrix([((1.0, 0.0), (0.5, 1.0)), ((0.0, 0.0), (0.5, 0.0))]) == ((0.5, 0.0), (0.5, 0.5))


def test_scores_with_and_without_old_images_by_hand() -> None:
    one = TaskSide(torch.stack([E1, E2]), E1[None], 2.0, lambda _: F.normalize(E1 + E2, dim=0)[None])
    other = TaskSide(E2[None], torch.stack([E1, E3]), 3.0, lambda _: E2[None])
    found = compare([one, other])

    assert found.images == 3
    assert found.exact["image_to_text"][0][1] == pytest.approx(0.25)
    assert found.exemplar_free["image_to_text"][0][1] == pytest.approx(0.5**0.5 / 2)
    assert np.array(found.exact["image_to_image"]) == pytest.approx(np.array([[0.5, 0.5], [0.5, 1.0]]))
    assert found.distance["image_to_text"].largest == pytest.approx(0.5**0.5 / 2 - 0.25)
    assert found.distance["image_to_text"].mean == pytest.approx((0.5**0.5 / 2 - 0.25) / 2)  # the other pair's is 0
    assert found.distance["text_to_image"].largest == found.distance["text_to_text"].largest == 0.0
    assert found.sigma_image.of_all == pytest.approx(
        float(torch.tensor([1, 0, 0, 0, 1, 1, 0, 1, 1.0]).std(correction=0))
    )
    assert found.sigma_image.least == pytest.approx(0.5)
    assert found.sigma_image.largest == pytest.approx(0.5)
    assert found.sigma_image_exemplar_free.least == pytest.approx(0.0)


def test_prototypes_are_projected_at_the_norm_of_the_task_that_comes_after() -> None:
    asked = []

    def remembered(norm: float) -> torch.Tensor:
        asked.append(norm)
        return E1[None]

    compare([TaskSide(E1[None], E1[None], 2.0, remembered), TaskSide(E2[None], E2[None], 4.0, lambda _: E2[None])])
    assert asked == [2.0, 4.0, 3.0]  # its own, the other's, and of both together the mean


def test_without_texts_images_alone_are_compared() -> None:
    none = torch.empty(0, 3)
    found = compare(
        [TaskSide(E1[None], none, 1.0, lambda _: E1[None]), TaskSide(E2[None], none, 1.0, lambda _: E2[None])]
    )
    assert set(found.exact) == set(found.exemplar_free) == set(found.distance) == {"image_to_image"}


@pytest.fixture(scope="module")
def four(toys: Dataset) -> Dataset:
    """Four tasks of a class each."""
    return replace(toys, tasks=4)


@pytest.fixture(scope="module")
def measured(four: Dataset, tiny_backbone: Backbone, tmp_path_factory: pytest.TempPathFactory) -> BenchmarkRecord:
    rows = choose_rows(["zero-shot", "prototypes", "joint"])
    return run_benchmark(four, tiny_backbone, rows, tmp_path_factory.mktemp("measured"), OPTIONS)


@pytest.fixture(scope="module")
def ran(
    four: Dataset, tiny_backbone: Backbone, measured: BenchmarkRecord, tmp_path_factory: pytest.TempPathFactory
) -> SetRecord:
    work = tmp_path_factory.mktemp("work")
    return run_set(four, tiny_backbone, work, OPTIONS, measured=measured, row=NAIVE, others=2)


def test_sides_are_those_of_the_untouched_model(four: Dataset, tiny_backbone: Backbone) -> None:
    bench = make_bench(four, tiny_backbone.preprocessing, seed=0, train_per_class=4)
    side = sides_of_bench(tiny_backbone, bench)[1]
    pixels = bench.tasks[1].images.pixels(range(4)) / 255
    with torch.no_grad():
        raw = tiny_backbone.raw_features(pixels)
        assert torch.allclose(side.images, tiny_backbone.project(raw), atol=1e-6)
        prototype = F.normalize(F.normalize(raw, dim=1).sum(dim=0, keepdim=True), dim=1)
        assert torch.allclose(side.remembered(side.norm), tiny_backbone.project(side.norm * prototype), atol=1e-5)
        assert torch.allclose(side.texts, tiny_backbone.text_features([bench.classes[1].prompt]), atol=1e-6)
    assert side.norm == pytest.approx(float(raw.norm(dim=1).mean()), rel=1e-5)


def test_a_whole_measurement(ran: SetRecord, measured: BenchmarkRecord, four: Dataset) -> None:
    assert ran.tasks == (("blue",), ("red",), ("grey",), ("green",))
    assert ran.scores.images == 16
    assert set(ran.correlation) == set(ran.correlation_exemplar_free) == {"zero-shot", "prototypes"}
    assert all(set(scores) == set(MODALITIES) for scores in ran.correlation.values())
    matrix = matrices_of(measured)["prototypes"]
    assert ran.correlation["prototypes"] == {
        name: correlate(ran.scores.exact[name], [(range(4), matrix)]) for name in MODALITIES
    }
    trained = ran.trained
    assert trained is not None
    assert trained.row == "naive"
    orders = [run.order for run in trained.runs]
    assert [run.suggested for run in trained.runs].count(True) == 1
    assert orders[0] == ran.orders.suggested
    assert tuple(range(4)) in orders
    for run in trained.runs:
        assert run.score == pytest.approx(
            sum(ran.scores.exact["image_to_text"][a][b] for a, b in zip(run.order, run.order[1:], strict=False)),
            abs=FLOAT64_REORDERED,
        )


def test_orders_that_are_learned_move_whole_tasks(
    toys: Dataset, tiny_backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def spy(dataset: Dataset, *others: object, **named: object) -> BenchmarkRecord:
        seen.append(dataset.class_order)
        return run_benchmark(dataset, *others, **named)  # type: ignore[arg-type]

    monkeypatch.setattr("benchmarks.accuracy.contributions.run.run_benchmark", spy)
    run_set(toys, tiny_backbone, tmp_path, OPTIONS, row=("zero-shot", Row("frozen", "text")), others=8)
    assert set(seen) == {(0, 3, 2, 1), (2, 1, 0, 3)}


@pytest.mark.parametrize(
    ("tasks", "row", "sentence"),
    [
        (1, None, "contributions need two tasks or more, got 1"),
        (3, NAIVE, "unequal numbers of classes"),
        (2, ("joint", Row("joint", "fused")), "joint learns all tasks at once"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    toys: Dataset, tiny_backbone: Backbone, tmp_path: Path, tasks: int, row: tuple[str, Row] | None, sentence: str
) -> None:
    with pytest.raises(DatasetError, match=sentence):
        run_set(replace(toys, tasks=tasks), tiny_backbone, tmp_path, OPTIONS, row=row)


def test_a_record_of_other_tasks_is_refused(
    toys: Dataset, tiny_backbone: Backbone, measured: BenchmarkRecord, tmp_path: Path
) -> None:
    with pytest.raises(DatasetError, match="is of other tasks"):
        run_set(toys, tiny_backbone, tmp_path, OPTIONS, measured=measured)


def test_the_page_of_a_benchmark_keeps_its_section(ran: SetRecord, measured: BenchmarkRecord, tmp_path: Path) -> None:
    write_report(measured, tmp_path)
    alone = (tmp_path / "README.md").read_text()
    assert TITLE not in alone

    section = write_set(ran, matrices_of(measured), tmp_path)
    both = (tmp_path / "README.md").read_text()
    write_report(measured, tmp_path)

    assert (tmp_path / "README.md").read_text() == both
    assert f"## {TITLE}\n\n{section}\n\n## Versions" in both
    assert with_set(alone, tmp_path) == both
    assert with_set(alone, tmp_path / "elsewhere") == alone
    assert SetRecord.model_validate_json((tmp_path / "contributions.json").read_text()) == ran
    assert "| prototypes |" in section
    assert f"Below {LEAST_SPREAD:g} the service forecasts nothing." in section
    assert "(suggested)" in section
    for name in ("contributions.png", SCATTER):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
        assert f"({name})" in section


def test_without_a_benchmark_there_is_no_forecast_to_hold_anything_against(ran: SetRecord, tmp_path: Path) -> None:
    (tmp_path / SCATTER).write_bytes(b"older")
    bare = ran.model_copy(update={"correlation": {}, "correlation_exemplar_free": {}, "trained": None})
    section = write_set(bare, {}, tmp_path)
    assert not (tmp_path / SCATTER).exists()
    assert "Forecast and forgetting" not in section
    assert (tmp_path / "README.md").read_text().startswith("# toys\n\n## Cross-modal contributions\n")


def test_many_tasks_are_drawn_without_their_numbers(ran: SetRecord) -> None:
    table = tuple(tuple(float(i + j) for j in range(12)) for i in range(12))
    few = heat_maps(ran.scores)
    many = heat_maps(ran.scores.model_copy(update={"exact": {"image_to_image": table}}))
    assert few.startswith(b"\x89PNG")
    assert many.startswith(b"\x89PNG")


def feature_file(folder: Path) -> Path:
    random = np.random.default_rng(0)
    means = random.normal(size=(6, 8))
    arrays: dict[str, NDArray[Any]] = {}
    for name in ("birds", "fish"):
        for part, count in (("train", 4), ("test", 2)):
            labels = np.repeat(np.arange(6, dtype=np.int16), count)
            arrays[f"{name}_{part}_x"] = means[labels] + random.normal(size=(len(labels), 8))
            arrays[f"{name}_{part}_y"] = labels
    np.savez(folder / "features.npz", allow_pickle=True, birds_text=means, **arrays)
    return folder / "features.npz"


def test_the_command_compares_features_and_leaves_the_page_of_heads_as_it_is(tmp_path: Path) -> None:
    file = feature_file(tmp_path)
    heads = ["features", str(file), "--row", "prototypes", "--tasks", "3", "--out", str(tmp_path / "out" / "features")]
    assert CliRunner().invoke(cli.app, heads).exit_code == 0
    page = tmp_path / "out" / "features" / "README.md"
    alone = page.read_text()

    ran = CliRunner().invoke(cli.app, ["contributions", str(file), "--results", str(tmp_path / "out")])

    assert ran.exit_code == 0, ran.output
    both = page.read_text()
    assert with_features(alone, page.parent) == both
    assert CliRunner().invoke(cli.app, heads).exit_code == 0
    assert both.count(f"## {TITLE}") == page.read_text().count(f"## {TITLE}") == 1
    record = FeaturesRecord.model_validate_json((page.parent / "contributions.json").read_text())
    assert list(record.sets) == ["birds", "fish"]
    assert set(record.sets["birds"].scores.exact) == set(MODALITIES)
    assert set(record.sets["fish"].scores.exact) == {"image_to_image"}
    assert record.sets["fish"].halves is None
    assert record.sets["birds"].halves is not None
    assert set(record.sets["fish"].correlation) == {"prototypes"}
    assert record.between is not None
    assert record.between.images == 48
    assert str(tmp_path) not in both + (page.parent / "contributions.json").read_text()


def test_the_halves_are_by_the_number_of_the_class(tmp_path: Path) -> None:
    (birds, _) = read_features(feature_file(tmp_path))
    found = run_features([birds], file="x.npz", digest="ab", measured=None, versions={})
    halves = found.sets["birds"].halves
    first, second = (birds.train.features[birds.train.labels // 3 == half].mean(dim=0) for half in (0, 1))
    assert halves is not None
    assert halves.exact["image_to_image"][0][1] == pytest.approx(float(first @ second))
    assert found.between is None
    assert found.sets["birds"].correlation == {}


def test_a_record_of_another_file_is_refused(tmp_path: Path) -> None:
    file = feature_file(tmp_path)
    other = FeatureRecord(file="other.npz", digest="ab", seed=0, results=(), versions={})
    with pytest.raises(DatasetError, match=r"the record of other\.npz is of other features"):
        run_features(
            read_features(file),
            file=file.name,
            digest=sha256(file.read_bytes()).hexdigest(),
            measured=other,
            versions={},
        )


def test_the_command_writes_beside_the_benchmark(
    toy_folder: Path, tiny_spec: ModelSpec, tmp_path: Path, measured: BenchmarkRecord
) -> None:
    typed = [
        "contributions", str(toy_folder), "--tasks", "2", "--model", tiny_spec.name, "--device", "cpu",
        "--threads", "1", "--train-per-class", "3", "--results", str(tmp_path), "--work", str(tmp_path / "work"),
    ]  # fmt: skip
    ran = CliRunner().invoke(cli.app, typed)
    assert ran.exit_code == 0, ran.output
    written = json.loads((tmp_path / "toys" / "contributions.json").read_text())
    assert written["correlation"] == {}
    assert written["trained"] is None
    assert len(written["scores"]["exact"]["image_to_text"]) == 2
    assert "### Suggested order" in ran.stdout

    (tmp_path / "toys" / "record.json").write_text(measured.model_dump_json())
    refused = CliRunner().invoke(cli.app, typed)
    assert isinstance(refused.exception, DatasetError)

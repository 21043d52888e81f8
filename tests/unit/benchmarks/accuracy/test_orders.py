"""Several orders of the classes, from learning to the section of the page; and many tasks in a process of their own."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.accuracy.benchmark import Options, run_benchmark
from benchmarks.accuracy.datasets import Dataset
from benchmarks.accuracy.length import Length, measure
from benchmarks.accuracy.orders import (
    LENGTH_ROWS,
    METRICS,
    ROWS,
    LengthRun,
    OrderRun,
    OrdersRecord,
    OverOrders,
    class_orders,
    measure_apart,
    run_orders,
    summary_of,
    with_orders,
    write_orders,
)
from benchmarks.accuracy.report import write_report
from benchmarks.accuracy.rows import choose_rows
from segp_cl.models.backbone import Backbone
from segp_cl.types import ModelSpec

OPTIONS = Options(
    seeds=(0, 1), train_per_class=4, test_per_class=1, settings={"epochs": 1, "batch_size": 8, "k_adv": 1}
)
FILES = "orders-epochs=1-batch_size=8-k_adv=1"


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("work")


@pytest.fixture(scope="module")
def ran(toys: Dataset, tiny_backbone: Backbone, work: Path) -> OrdersRecord:
    rows = choose_rows(["naive", "merge", "merge-fused"])
    return run_orders(toys, tiny_backbone, rows, work, OPTIONS, count=2)


def run(order: int, seed: int, last: float, *, row: str = "merge") -> OrderRun:
    return OrderRun(
        row=row, order=order, seed=seed, last_accuracy=last, average_accuracy=last, backward_transfer=None,
        seconds_per_task=1.0,
    )  # fmt: skip


def test_the_first_order_is_the_data_set_s_and_the_others_are_always_the_same(toys: Dataset) -> None:
    orders = class_orders(toys, 4)

    assert orders[0] == toys.class_order
    assert all(sorted(order) == [0, 1, 2, 3] for order in orders)
    assert orders[:3] == class_orders(toys, 3)
    assert len(set(orders)) > 1


def test_every_row_is_measured_in_every_order_with_every_seed(
    ran: OrdersRecord, toys: Dataset, tiny_backbone: Backbone, work: Path
) -> None:
    places = [(row, order, seed) for order in (0, 1) for row in ("naive", "merge", "merge-fused") for seed in (0, 1)]
    assert [(found.row, found.order, found.seed) for found in ran.runs] == places
    second = run_benchmark(
        replace(toys, class_order=ran.orders[1]), tiny_backbone, choose_rows(["merge"]), work, OPTIONS
    )
    summary = second.rows[1].summary
    (same,) = [found for found in ran.runs if (found.row, found.order, found.seed) == ("merge", 1, 1)]
    assert {name: getattr(same, name) for name in METRICS} == {name: of(summary) for name, of in METRICS.items()}


def test_spreads_by_hand() -> None:
    runs = [run(0, 0, 0.5), run(0, 1, 0.7), run(1, 0, 0.6), run(1, 1, 1.0)]

    found = OverOrders.of(runs, "last_accuracy")

    assert found is not None
    assert [found.all.mean, found.all.std] == pytest.approx([0.7, 0.2160247])
    assert [found.orders.mean, found.orders.std] == pytest.approx([0.7, 0.1414214])
    assert OverOrders.of(runs, "backward_transfer") is None


def test_a_study_is_written_with_a_row_for_each_row_and_read_back_for_the_page(
    ran: OrdersRecord, tmp_path: Path
) -> None:
    table = write_orders(ran, tmp_path)

    stored = json.loads((tmp_path / f"{FILES}.json").read_text())
    assert stored["rows"] == json.loads(json.dumps(summary_of(ran)))
    assert list(stored["rows"]) == ["naive", "merge", "merge-fused"]
    assert set(stored["rows"]["merge"]) == {*METRICS, "seeds"}
    assert (tmp_path / f"{FILES}.png").read_bytes().startswith(b"\x89PNG")
    page = (tmp_path / "README.md").read_text()
    assert page.startswith("# toys\n\n## Task orders\n")
    assert table in page
    assert f"![{FILES}]({FILES}.png)" in page


def test_the_page_of_a_benchmark_keeps_its_section(
    ran: OrdersRecord, toys: Dataset, tiny_backbone: Backbone, work: Path, tmp_path: Path
) -> None:
    record = run_benchmark(toys, tiny_backbone, choose_rows(["naive"]), work, OPTIONS)
    write_report(record, tmp_path)
    alone = (tmp_path / "README.md").read_text()
    assert "## Task orders" not in alone

    write_orders(ran, tmp_path)
    both = (tmp_path / "README.md").read_text()
    write_report(record, tmp_path)

    assert (tmp_path / "README.md").read_text() == both
    assert both.index("## Drift") < both.index("## Task orders") < both.index("## Versions")
    assert with_orders(both, tmp_path) == both
    assert with_orders(both, tmp_path / "elsewhere") == alone


def test_many_tasks_are_measured_and_put_into_the_same_record(
    ran: OrdersRecord, toy_folder: Path, tiny_spec: ModelSpec, tmp_path: Path
) -> None:
    length = Length(
        dataset=str(toy_folder), data=toy_folder, row="merge", tasks=4, model=tiny_spec.name, pretrained=None,
        train_per_class=3, test_per_class=1, settings={"epochs": 1}, threads=1,
    )  # fmt: skip

    found = LengthRun.model_validate_json(measure(length))

    assert (found.row, found.tasks) == ("merge", 4)
    assert min(found.seconds_per_task, found.cpu_seconds_per_task, found.last_seconds) > 0
    assert found.peak_mib >= found.base_mib > 0
    assert found.misaligned is not None
    assert 0 <= found.misaligned < 1
    write_orders(ran.model_copy(update={"lengths": (found,)}), tmp_path)
    assert json.loads((tmp_path / f"{FILES}.json").read_text())["lengths"] == [found.model_dump()]
    assert "| merge    |     4 |" in (tmp_path / "README.md").read_text()


@pytest.mark.slow
def test_a_process_of_its_own_answers(toy_folder: Path, tiny_spec: ModelSpec) -> None:
    length = Length(
        dataset=str(toy_folder), data=toy_folder, row="naive", tasks=2, model=tiny_spec.name, pretrained=None,
        train_per_class=3, test_per_class=1, settings={"epochs": 1}, threads=1,
    )  # fmt: skip

    assert measure_apart(length).misaligned is None


def test_the_rows_that_are_measured_by_default_exist() -> None:
    assert set(choose_rows([*ROWS, *LENGTH_ROWS])) == {*ROWS, *LENGTH_ROWS}

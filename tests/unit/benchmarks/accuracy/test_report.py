"""What a benchmark publishes, on records small enough to be worked by hand."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
from PIL import Image

from benchmarks.accuracy import report
from benchmarks.accuracy.plots import styles
from benchmarks.accuracy.portable import without_paths
from benchmarks.accuracy.record import BenchmarkRecord, Drift, Protocol, Retention, RowRecord
from benchmarks.accuracy.report import markdown_table, page, summary, write_report

FILES = {"record.json", "summary.json", "accuracy.png", "matrix.png", "ladder.png", "drift.png", "README.md"}

# Two tasks with 10 and 30 images. Seen after the first: R_00; after the second: (10 R_10 + 30 R_11) / 40.
SEED_0 = ((0.8, 0.4), (0.6, 0.8))  # Last .75, Avg .775, Forgetting .2, BWT -.2, FWT .4
SEED_1 = ((1.0, 0.6), (0.6, 1.0))  # Last .90, Avg .950, Forgetting .4, BWT -.4, FWT .6
ROOT_HALF = 0.5**0.5  # the sample standard deviation of two values is their distance times this

DRIFT = Drift(near_mean=0.2, far_mean=0.05, edges=(0.0, 0.1, 0.3), near=(1, 3), far=(4, 0))


def row(
    name: str = "segp",
    seed: int = 0,
    accuracies: tuple[tuple[float, ...], ...] = SEED_0,
    *,
    test_images: tuple[int, ...] = (10, 30),
    global_accuracies: tuple[float, ...] = (0.3, 0.5),
    seconds: tuple[float, ...] = (2.0, 4.0),
    settings: dict[str, object] | None = None,
    drift: Drift | None = None,
    retention: Retention | None = None,
) -> RowRecord:
    return RowRecord(
        row=name,
        seed=seed,
        accuracies=accuracies,
        test_images=test_images,
        global_accuracies=global_accuracies,
        seconds=seconds,
        settings=settings or {},
        drift=drift,
        retention=retention,
    )


def one_task(name: str) -> RowRecord:
    return row(name, accuracies=((0.5,),), test_images=(10,), global_accuracies=(0.5,), seconds=())


def benchmark(*rows: RowRecord, evaluated_on: str = "test", pretrained: str | None = "openai") -> BenchmarkRecord:
    protocol = Protocol(
        dataset="toys",
        tasks=len(rows[0].test_images) if rows else 2,
        classes=("ball", "cup", "/slash", "top"),
        class_order=(2, 0, 1, 3),
        class_order_seed=1993,
        train_images=20,
        test_images=40,
        train_per_class=5,
        test_per_class=None,
        template="a photo of a {}.",
        model="ViT-B-16",
        pretrained=pretrained,
        weights_digest="ab",
        data_digest="cd",
        evaluated_on=evaluated_on,
    )
    return BenchmarkRecord(protocol=protocol, rows=rows, versions={"torch": "2.15.0", "python": "3.11.9"})


def cells(table: str, name: str) -> list[str]:
    [line] = [line for line in table.splitlines() if line.startswith(f"| {name} ")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_summary_has_mean_and_sample_deviation_over_seeds_as_fractions() -> None:
    written = summary(benchmark(row(), row(seed=1, accuracies=SEED_1, global_accuracies=(0.3, 0.7))))
    assert written == {
        "dataset": "toys",
        "tasks": 2,
        "evaluated_on": "test",
        "model": "ViT-B-16",
        "rows": {
            "segp": {
                "last_accuracy": {"mean": pytest.approx(0.825), "std": pytest.approx(0.15 * ROOT_HALF)},
                "average_accuracy": {"mean": pytest.approx(0.8625), "std": pytest.approx(0.175 * ROOT_HALF)},
                "forgetting": {"mean": pytest.approx(0.3), "std": pytest.approx(0.2 * ROOT_HALF)},
                "backward_transfer": {"mean": pytest.approx(-0.3), "std": pytest.approx(0.2 * ROOT_HALF)},
                "forward_transfer": {"mean": pytest.approx(0.5), "std": pytest.approx(0.2 * ROOT_HALF)},
                "global_accuracy": {"mean": pytest.approx(0.6), "std": pytest.approx(0.2 * ROOT_HALF)},
                "seeds": 2,
            }
        },
    }


def test_one_seed_has_no_deviation(tmp_path: Path) -> None:
    write_report(benchmark(row()), tmp_path)
    rows = json.loads((tmp_path / "summary.json").read_text())["rows"]
    assert rows["segp"]["last_accuracy"] == {"mean": pytest.approx(0.75), "std": 0.0}
    assert rows["segp"]["seeds"] == 1
    text = (tmp_path / "README.md").read_text()
    assert "of one seed, 0" in text
    assert "±" not in text


def test_metrics_that_one_task_does_not_define_are_null(tmp_path: Path) -> None:
    record = benchmark(one_task("naive"), one_task("segp"))
    write_report(record, tmp_path)
    rows = json.loads((tmp_path / "summary.json").read_text())["rows"]
    assert {name for name, value in rows["naive"].items() if value is None} == {
        "forgetting",
        "backward_transfer",
        "forward_transfer",
    }
    assert cells(markdown_table(record), "naive") == ["naive", "1", "50.0", "50.0", "–", "–", "–", "50.0", "–"]


def test_table_is_in_percent_with_deviations_in_the_order_of_the_record() -> None:
    record = benchmark(row("naive"), row("naive", 1, SEED_1, seconds=(2.0, 2.0)), row("joint", seconds=()))
    table = markdown_table(record)
    head, rule, *lines = table.splitlines()
    assert [cell.strip() for cell in head.strip("|").split("|")][2:5] == ["Last", "Avg", "Forgetting"]
    assert set(rule) == set("|-: ")
    assert [line.split()[1] for line in lines] == ["naive", "joint"]
    assert len({len(line) for line in table.splitlines()}) == 1
    assert cells(table, "naive") == [
        "naive", "2", "82.5 ± 10.6", "86.2 ± 12.4",
        "30.0 ± 14.1", "-30.0 ± 14.1", "50.0 ± 14.1", "50.0 ± 0.0", "2.5 ± 0.7",
    ]  # fmt: skip
    assert cells(table, "joint") == ["joint", "1", "75.0", "77.5", "20.0", "-20.0", "40.0", "50.0", "–"]


def test_a_change_that_rounds_to_zero_is_not_shown_as_negative() -> None:
    table = markdown_table(benchmark(row(accuracies=((0.6, 0.4), (0.5999, 0.8)))))
    assert cells(table, "segp")[5] == "0.0"


def test_report_writes_all_files_and_the_record_reads_back(tmp_path: Path) -> None:
    record = benchmark(row("naive", drift=DRIFT), row("segp", drift=DRIFT))
    write_report(record, tmp_path / "docs" / "toys")
    assert {path.name for path in (tmp_path / "docs" / "toys").iterdir()} == FILES
    written = (tmp_path / "docs" / "toys" / "record.json").read_text()
    assert BenchmarkRecord.model_validate_json(written) == record
    assert "[0.8, 0.4],\n" in written, "a matrix is written a row a line"


def test_report_is_the_same_bytes_every_time(tmp_path: Path) -> None:
    record = benchmark(row("naive", drift=DRIFT), row("segp", settings={"b": 1, "a": 2}))
    again = benchmark(row("naive", drift=DRIFT), row("segp", settings={"a": 2, "b": 1}))
    write_report(record, tmp_path / "one")
    write_report(again, tmp_path / "two")
    for name in FILES:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name


def test_plots_are_images_of_bounded_width_with_something_on_them(tmp_path: Path) -> None:
    write_report(benchmark(*(row(f"row-{number}", drift=DRIFT) for number in range(15))), tmp_path)
    for path in tmp_path.glob("*.png"):
        with Image.open(path) as image:
            image.load()
            assert image.format == "PNG"
            assert image.width <= 1100
            assert "Software" not in image.info
            colors = image.convert("RGB").getcolors(maxcolors=image.width * image.height)
        assert colors is not None
        assert len(colors) > 10, f"{path.name} is blank"


def test_plots_leave_pyplot_alone(tmp_path: Path) -> None:
    loaded = "matplotlib.pyplot" in sys.modules
    write_report(benchmark(row()), tmp_path)
    assert ("matplotlib.pyplot" in sys.modules) == loaded


@pytest.mark.parametrize("tasks", [1, 12, 25])
def test_matrix_is_drawn_for_any_number_of_tasks(tmp_path: Path, tasks: int) -> None:
    accuracies = tuple((0.5,) * tasks for _ in range(tasks))
    write_report(benchmark(row(accuracies=accuracies, test_images=(10,) * tasks)), tmp_path)
    assert (tmp_path / "matrix.png").exists()


def test_seeds_with_different_edges_are_drawn_together(tmp_path: Path) -> None:
    other = Drift(near_mean=0.3, far_mean=0.1, edges=(0.0, 0.2, 0.4), near=(2, 2), far=(0, 0))
    write_report(benchmark(row(drift=DRIFT), row(seed=1, drift=other)), tmp_path)
    assert cells((tmp_path / "README.md").read_text().split("## Drift")[1], "segp") == [
        "segp", "0.2500 ± 0.0707", "0.0750 ± 0.0354", "3.3",
    ]  # fmt: skip


def test_drift_and_retention_appear_only_where_records_have_them(tmp_path: Path) -> None:
    retention = Retention(dataset="food", images=50, before=0.8, after=0.7)
    write_report(benchmark(row("naive", drift=DRIFT, retention=retention), row("segp")), tmp_path)
    text = (tmp_path / "README.md").read_text()
    before_drift, of_drift = text.split("## Drift")
    assert cells(before_drift.split("## Retention")[1], "naive") == ["naive", "food", "50", "80.0", "70.0", "-10.0"]
    assert cells(of_drift, "naive") == ["naive", "0.2000", "0.0500", "4.0"]
    assert "(drift.png)" in text

    write_report(benchmark(row("naive"), row("segp")), tmp_path)
    text = (tmp_path / "README.md").read_text()
    assert "Retention" not in text
    assert "drift.png" not in text
    assert not (tmp_path / "drift.png").exists(), "the older report's plot would be taken for this one's"


def test_page_says_the_protocol_and_the_versions() -> None:
    text = page(benchmark(row(), row(seed=1), row(seed=2)), plots=["accuracy.png"])
    for said in (
        "toys: 4 classes in 2 tasks of 2, in the order of seed 1993",
        "20 images (5 per class) to train on",
        "40 images to test on, from the test set",
        "ViT-B-16 (openai)",
        "“a photo of a {}.”",
        "over seeds 0, 1 and 2",
        "| torch  | 2.15.0  |",
        "![accuracy](accuracy.png)",
    ):
        assert said in text, said


def test_page_says_when_nothing_was_measured_on_the_test_set() -> None:
    text = page(benchmark(row(), evaluated_on="validation"), plots=[])
    assert "kept back (validation)" in text
    assert "the test set" not in text


def test_page_leaves_the_number_of_seeds_to_the_table_where_rows_differ() -> None:
    text = page(benchmark(row("naive"), row("segp"), row("segp", seed=1)), plots=[])
    assert "over as many seeds as the table says" in text


def test_no_output_has_an_absolute_path(tmp_path: Path) -> None:
    settings: dict[str, object] = {
        "store": "/home/somebody/my store/run",
        "nested": {"command": ["train", "--data=/data/secret/toys", "file:///srv/secret/x.json"]},
        "windows": r"C:\Users\somebody\weights.pt",
        "model": "local-dir:/home/somebody/my models/clip",
        "kept": ["hf-hub:timm/vit", "https://example.org/a/b", "n/a", "3 / 4", "docs/results"],
    }
    record = benchmark(row(settings=settings), pretrained="/mnt/secret/weights.safetensors")
    write_report(record, tmp_path)
    for path in tmp_path.iterdir():
        content = path.read_bytes()
        for part in (b"somebody", b"secret", b"/mnt", str(tmp_path).encode()):
            assert part not in content, f"{part!r} in {path.name}"
    cleaned = without_paths(record)
    assert cleaned.rows[0].settings == {
        "kept": ["hf-hub:timm/vit", "https://example.org/a/b", "n/a", "3 / 4", "docs/results"],
        "model": "local-dir:clip",
        "nested": {"command": ["train", "--data=toys", "x.json"]},
        "store": "run",
        "windows": "weights.pt",
    }
    assert cleaned.protocol.pretrained == "weights.safetensors"
    assert cleaned.protocol.classes == record.protocol.classes, "class names are never taken for paths"


def test_a_report_that_fails_leaves_the_older_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_report(benchmark(row(drift=DRIFT)), tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def fail(record: BenchmarkRecord) -> bytes:
        raise MemoryError

    monkeypatch.setattr(report, "drift_plot", fail)
    with pytest.raises(MemoryError):
        write_report(benchmark(row("naive")), tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_an_interrupted_write_leaves_no_half_written_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_report(benchmark(row()), tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def interrupt(source: Path, target: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_report(benchmark(row("naive")), tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_record_without_rows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one row"):
        write_report(benchmark(), tmp_path / "toys")
    assert not (tmp_path / "toys").exists()


def test_styles_tell_fifteen_rows_apart_and_do_not_depend_on_the_other_rows() -> None:
    names = [
        "zero-shot", "prototypes", "naive", "naive-tuned", "acgd", "acgd+tsgr", "segp", "segp-text", "segp-visual",
        "segp-visual-stale", "segp-paper", "joint", "lora-a", "lora-b", "segp-x",
    ]  # fmt: skip
    chosen = styles(names)
    assert len({(style.color, style.dash, style.marker) for style in chosen.values()}) == len(names)
    assert styles(["segp"])["segp"] == chosen["segp"]

"""The group of figures about how soon a task is served, without a service."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from benchmarks.accuracy.words import Both, Words
from benchmarks.answers import instant, untaught
from benchmarks.answers.closed_form import CLOSED_FORM
from benchmarks.answers.instant import ALLOWED_S, INSTANT, Timed, archive_of
from benchmarks.common.process import answer_of
from benchmarks.common.record import save_json


class Pictures:
    """Thirty pictures of each of fifty classes."""

    labels: Sequence[int] = [label for label in range(50) for _ in range(30)] + list(range(10)) * 170

    def open(self, index: int) -> Image.Image:
        return Image.new("RGB", (8, 8), (index % 256, 0, 0))


class FakeService:
    """Serves a task after two seconds, and after ten what was trained."""

    def __init__(self) -> None:
        self.taught: list[tuple[str, int]] = []
        self.rolled_back = 0

    def serving(self) -> list[str]:
        return ["first", "first"]

    def roll_back(self, version: str) -> None:
        assert version == "first"
        self.rolled_back += 1

    def upload(self, archive: bytes, name: str) -> tuple[str, float]:
        return name, 0.0

    def get(self, path: str) -> Any:
        return {"progress": {"phase": "train"}}

    def until(self, condition: Any) -> float:
        assert condition()
        return 0.0

    def teach(self, archive: bytes, name: str, *, trained: bool) -> Timed:
        with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
            self.taught.append((name, len(tar.getnames())))
        return Timed(2.0, 10.0 if trained else None)


def test_figures_are_over_the_bare_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeService()

    @contextmanager
    def service() -> Iterator[FakeService]:
        yield fake

    monkeypatch.setattr(instant, "service", service)
    monkeypatch.setattr(instant, "_SETTLED_S", 0.0)
    monkeypatch.setattr(instant, "load_dataset", lambda name, data: SimpleNamespace(train=Pictures()))
    monkeypatch.setattr(instant, "bare_s", lambda folder, rounds: 1.0 if folder.name == "small" else 1.6)
    part = INSTANT.measure(SimpleNamespace(data=Path("data"), rounds=2))  # type: ignore[arg-type]
    assert part.figures == {
        "instant_overhead_125": 2.0 - ALLOWED_S,
        "instant_overhead_2000": 2.0 / 1.6,
        "instant_overhead_125_beside": 2.0 - ALLOWED_S,
        "trained_seconds_125": 10.0,
    }
    assert set(part.figures) == set(INSTANT.meanings)
    assert fake.rolled_back == 4
    names = [name for name, _ in fake.taught]
    assert names == ["125 0", "125 1", "2000 0", "2000 1", "meanwhile"]
    assert dict(fake.taught)["125 0"] == 125 + 5 + 1  # the images, their folders, and the one around them
    assert dict(fake.taught)["2000 0"] == 2000 + 10 + 1
    assert "| bare_125_s | 1.00 |" in INSTANT.section(part.details)


def test_an_archive_has_a_folder_for_each_class(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "1.png").write_bytes(b"x")
    with tarfile.open(fileobj=io.BytesIO(archive_of(tmp_path))) as tar:
        assert sorted(tar.getnames()) == [".", "./cat", "./cat/1.png"]


@pytest.mark.slow
def test_the_bare_loop_times_every_round(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    Image.new("RGB", (40, 40)).save(tmp_path / "cat" / "1.png")
    asked = f'{{"folder": "{tmp_path}", "threads": 1, "rounds": 2}}'
    assert [seconds > 0 for seconds in answer_of("benchmarks.answers.bare_loop", asked, environment={})] == [True, True]


def test_what_was_found_about_words_is_kept_and_shown() -> None:
    words = Words("toys", Both((0.5,), (0.9,)), Both((0.6,), (0.5,)), 0.9, 0.6, 0.5, "tools", 0.4, 0.4)
    record = words.as_record()
    assert Words.of_record(record) == words
    details = {"sets": [record]}
    assert "| toys | 0.643 | 0.545 | 0.600 | 0.500 | 0.400 and 0.400 on tools |" in untaught.section(details)
    (plot,) = untaught.UNTAUGHT.plots(details).values()
    assert plot.startswith(b"\x89PNG")


def test_the_best_row_without_a_gradient_is_read_from_the_accuracy_benchmark(tmp_path: Path) -> None:
    def summary(**lasts: float) -> dict[str, Any]:
        return {"rows": {name: {"last_accuracy": {"mean": last}} for name, last in lasts.items()}}

    save_json(tmp_path / "caltech101" / "summary.json", summary(ridge=0.8, prototypes=0.9, segp=0.95, naive=0.99))
    save_json(tmp_path / "cifar10" / "summary.json", summary(ridge=0.7, prototypes=0.6))
    part = CLOSED_FORM.measure(SimpleNamespace(results=tmp_path))  # type: ignore[arg-type]
    assert part.figures == {"best_closed_form_caltech101": 0.9, "best_closed_form_cifar10": 0.7}
    assert set(part.figures) == set(CLOSED_FORM.meanings)
    shown = CLOSED_FORM.section(part.details)
    assert "| caltech101 | prototypes | 0.900 | 0.950 |" in shown
    assert "| cifar10 | ridge | 0.700 | – |" in shown

"""The gate with the real model: what people report is held, and ordinary updates pass."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from exchange.contracts import JobClass, UpdateJob, UpdateOutcome, new_job_id, utc_now
from exchange.spool import Spool
from model_store.store import Store
from worker.pipeline import run_update
from worker.settings import WorkerSettings

pytestmark = pytest.mark.slow

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


@pytest.fixture
def settings(tmp_path: Path) -> WorkerSettings:
    return WorkerSettings(
        store=tmp_path / "store",
        spool=tmp_path / "spool",
        redis_url="redis://127.0.0.1:1/0",
        model="compact",
        pretrained=None,
        device="cpu",
        threads=1,
    )


def scans(digit: int, count: int) -> list[bytes]:
    """The first scans of a digit, dark on white, as PNG."""
    bunch = load_digits()
    files = []
    for scan in bunch.images[bunch.target == digit][:count]:
        file = io.BytesIO()
        grey = (255 - scan * (255 / 16)).astype(numpy.uint8)
        Image.fromarray(grey).resize((96, 96), Image.Resampling.BICUBIC).save(file, "PNG")
        files.append(file.getvalue())
    return files


def teach(
    settings: WorkerSettings, images: Mapping[str, Sequence[bytes]], *, extend: bool = False, **config: object
) -> UpdateOutcome:
    job_id = new_job_id()
    with Spool(settings.spool).create(job_id) as writer:
        for label, files in enumerate(images.values()):
            for data in files:
                writer.add(label, data, ".png")
        index = writer.close(list(images))
    job = UpdateJob.model_validate(
        {
            "job_id": job_id,
            "task_name": "digits",
            "classes": [
                JobClass(name=name, prompt=f"a scan of the handwritten digit {name}.", images=len(files))
                for name, files in images.items()
            ],
            "extend": extend,
            "config": config,
            "dataset_digest": index.digest,
            "submitted_at": utc_now(),
        }
    )
    return run_update(job, settings, on_progress=lambda _: None)


def failed(outcome: UpdateOutcome) -> set[str]:
    assert outcome.gate is not None
    return {check.name for check in outcome.gate.checks if check.passed is False}


def test_updates_that_forget_are_held_and_ordinary_ones_pass(settings: WorkerSettings) -> None:
    first = teach(settings, {NAMES[digit]: scans(digit, 12) for digit in range(5)})
    assert first.promoted, first.not_promoted_because
    more = {NAMES[digit]: scans(digit, 12) for digit in (5, 6)}
    for config in ({"learning_rate": 30.0}, {"fusion_weight": 0.0, "learning_rate": 5.0}):
        outcome = teach(settings, more, **config)
        assert not outcome.promoted, config
        assert "old_classes" in failed(outcome), config
        assert Store(settings.store).current() == first.version_id
    second = teach(settings, more)
    assert second.promoted, second.not_promoted_because


def test_a_correction_that_does_not_correct_is_held(settings: WorkerSettings) -> None:
    assert teach(settings, {NAMES[digit]: scans(digit, 12) for digit in range(3)}).promoted
    swapped = teach(settings, {"seven": scans(8, 16), "eight": scans(7, 16)})
    assert swapped.promoted, swapped.not_promoted_because
    corrected = teach(settings, {"seven": scans(7, 8), "eight": scans(8, 8)}, extend=True)
    assert corrected.evaluation is not None
    assert corrected.evaluation.overall.fused == 0.0
    assert not corrected.promoted
    assert "taught" in failed(corrected)
    assert Store(settings.store).current() == swapped.version_id

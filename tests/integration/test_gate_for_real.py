"""The gate with the real model: what people report is held, and ordinary updates pass."""

from __future__ import annotations

import io
import shutil
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


def settings_in(folder: Path) -> WorkerSettings:
    return WorkerSettings(
        store=folder / "store",
        spool=folder / "spool",
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
    settings: WorkerSettings,
    images: Mapping[str, Sequence[bytes]],
    *,
    extend: bool = False,
    config: Mapping[str, float] | None = None,
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
            "config": dict(config or {}),
            "dataset_digest": index.digest,
            "submitted_at": utc_now(),
        }
    )
    return run_update(job, settings, on_progress=lambda _: None)


def failed(outcome: UpdateOutcome) -> set[str]:
    assert outcome.gate is not None
    return {check.name for check in outcome.gate.checks if check.passed is False}


@pytest.fixture(scope="module")
def five_digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store whose CURRENT knows zero to four."""
    settings = settings_in(tmp_path_factory.mktemp("five"))
    outcome = teach(settings, {NAMES[digit]: scans(digit, 12) for digit in range(5)})
    assert outcome.promoted, outcome.not_promoted_because
    return settings.store


@pytest.mark.parametrize(
    ("config", "promoted"),
    [({}, True), ({"learning_rate": 30.0}, False), ({"fusion_weight": 0.0, "learning_rate": 5.0}, False)],
    ids=["ordinary", "learning rate of 30", "text path alone, ruined"],
)
def test_updates_that_forget_are_held_and_ordinary_ones_pass(
    tmp_path: Path, five_digits: Path, config: dict[str, float], promoted: bool
) -> None:
    settings = settings_in(tmp_path)
    shutil.copytree(five_digits, settings.store)
    before = Store(settings.store).current()
    outcome = teach(settings, {NAMES[digit]: scans(digit, 12) for digit in (5, 6)}, config=config)
    assert outcome.promoted is promoted, outcome.not_promoted_because
    assert ("old_classes" in failed(outcome)) is not promoted
    assert Store(settings.store).current() == (outcome.version_id if promoted else before)


def test_a_correction_that_does_not_correct_is_held(tmp_path: Path, five_digits: Path) -> None:
    settings = settings_in(tmp_path)
    shutil.copytree(five_digits, settings.store)
    swapped = teach(settings, {"seven": scans(8, 8), "eight": scans(7, 8)})
    assert swapped.promoted, swapped.not_promoted_because
    corrected = teach(settings, {"seven": scans(7, 8), "eight": scans(8, 8)}, extend=True)
    assert corrected.evaluation is not None
    assert corrected.evaluation.overall.fused <= 0.5  # of two images
    assert not corrected.promoted, corrected.gate
    assert "contradiction" in failed(corrected)
    assert Store(settings.store).current() == swapped.version_id

"""A miniature data set of coloured squares, a folder per class, small enough for the tiny CLIP to learn in seconds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.accuracy.datasets import Dataset, load_dataset

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (30, 40, 220), "grey": (120, 120, 120)}
IMAGES_PER_CLASS = 10  # 8 to train on, of which 3 are set aside for validation, and 2 for test


def make_folder(folder: Path, *, seed: int = 0) -> Path:
    """Noisy squares, `<class>/<number>.png`."""
    random = np.random.default_rng(seed)
    for name, colour in COLOURS.items():
        (folder / name).mkdir(parents=True)
        for number in range(IMAGES_PER_CLASS):
            noisy = np.array(colour) + random.integers(-30, 30, (32, 32, 3))
            Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(folder / name / f"{number}.png")
    return folder


@pytest.fixture(scope="session")
def toy_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("data") / "toys")


@pytest.fixture(scope="session")
def toys(toy_folder: Path) -> Dataset:
    """Four classes in two tasks; blue and red come first."""
    return replace(load_dataset(str(toy_folder), toy_folder), tasks=2, class_order=(0, 3, 2, 1))


@pytest.fixture(scope="session")
def other_toys(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Another data set, for what was never taught."""
    folder = make_folder(tmp_path_factory.mktemp("data") / "others", seed=1)
    return load_dataset(str(folder), folder, tasks=1)

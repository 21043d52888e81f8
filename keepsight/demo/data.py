"""Images for the demo: scans of handwritten digits that scikit-learn ships, or a folder of the user's own."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from keepsight.client.folders import IMAGE_SUFFIXES, Member
from keepsight.demo.errors import DemoError

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
DIGIT_TEMPLATE = "a scan of the handwritten digit {}."
DIGIT_SIDE_PIXELS = 96
FOLDER_TEMPLATE = "a photo of a {}."
SEED = 0


@dataclass(frozen=True)
class Slice:
    """How many images of a class are used: at most `train` to teach, and of the rest at most `held_out` to measure."""

    train: int
    held_out: int


FULL = Slice(train=130, held_out=45)
SHORT = Slice(train=40, held_out=15)
HELD_OUT_SHARE = 0.25


@dataclass(frozen=True)
class DemoTask:
    """One task: the images to teach, and the held-out images with their true classes."""

    name: str
    classes: tuple[str, ...]
    train: tuple[Member, ...]
    held_out: tuple[tuple[Path, str], ...]


@dataclass(frozen=True)
class DemoData:
    """The tasks in order.

    Attributes:
        title: What the images are.
        template: The prompt of the classes.
        tasks: The increments.
        margin: Required fused accuracy above chance, as a share of the gap between chance and 1.
    """

    title: str
    template: str
    tasks: tuple[DemoTask, ...]
    margin: float

    @property
    def classes(self) -> tuple[str, ...]:
        """All class names, in the order of the tasks."""
        return tuple(name for task in self.tasks for name in task.classes)


def digits(folder: Path, *, short: bool) -> DemoData:
    """Write real scans of digits (UCI: 1,797 of 8 x 8 pixels), dark on white, as the tasks 0-4 and 5-9."""
    import numpy
    from PIL import Image
    from sklearn.datasets import load_digits

    bunch = load_digits()
    amount = SHORT if short else FULL
    files: dict[str, list[Path]] = {name: [] for name in DIGITS}
    for number, (scan, digit) in enumerate(zip(bunch.images, bunch.target, strict=True)):
        name = DIGITS[int(digit)]
        if len(files[name]) * HELD_OUT_SHARE >= amount.held_out:  # enough images to hold that many out
            continue
        path = folder / name / f"{number:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        grey = (255 - scan * (255 / 16)).astype(numpy.uint8)
        Image.fromarray(grey).resize((DIGIT_SIDE_PIXELS,) * 2, Image.Resampling.BICUBIC).save(path)
        files[name].append(path)
    groups = {"digits zero to four": DIGITS[:5], "digits five to nine": DIGITS[5:]}
    tasks = tuple(make_task(name, {c: files[c] for c in classes}, amount) for name, classes in groups.items())
    return DemoData("scans of handwritten digits", DIGIT_TEMPLATE, tasks, margin=0.25)


def from_folder(data: Path, *, tasks: int, short: bool) -> DemoData:
    """Split the user's folder, which has a subfolder per class, into `tasks` tasks in alphabetical order.

    Raises:
        DemoError: there is no such folder, or it has too few classes or a class too few images.
    """
    if not data.is_dir():
        raise DemoError(f"{data} is not a folder; --data takes a folder with a subfolder of images per class")
    files: dict[str, list[Path]] = {}
    for class_folder in sorted(p for p in data.iterdir() if p.is_dir() and not p.name.startswith(".")):
        images = sorted(p for p in class_folder.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file())
        if len(images) == 1:
            raise DemoError(f"{class_folder} has one image; the demo needs two, one to teach and one to measure")
        if images:
            files[class_folder.name] = images
    if len(files) < tasks:
        raise DemoError(f"{data} has {len(files)} class folders with images; {tasks} tasks need at least {tasks}")
    names = list(files)
    bounds = [round(len(names) * n / tasks) for n in range(tasks + 1)]
    amount = SHORT if short else FULL
    made = tuple(
        make_task(f"{data.resolve().name} {n + 1}", {c: files[c] for c in names[bounds[n] : bounds[n + 1]]}, amount)
        for n in range(tasks)
    )
    return DemoData(str(data), FOLDER_TEMPLATE, made, margin=0.1)


def make_task(name: str, files: Mapping[str, Sequence[Path]], amount: Slice) -> DemoTask:
    """Shuffle each class with a fixed seed, and split it into images to teach and held-out images."""
    train: list[Member] = []
    held_out: list[tuple[Path, str]] = []
    for class_name, paths in files.items():
        shuffled = list(paths)
        random.Random(f"{SEED} {class_name}").shuffle(shuffled)
        kept_back = min(amount.held_out, max(1, round(len(shuffled) * HELD_OUT_SHARE)))
        held_out += [(path, class_name) for path in shuffled[:kept_back]]
        for path in shuffled[kept_back : kept_back + amount.train]:
            train.append(Member(path, f"{class_name}/{len(train):05d}-{path.name}", path.stat().st_size))
    return DemoTask(name, tuple(files), tuple(train), tuple(held_out))

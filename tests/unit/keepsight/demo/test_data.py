"""The demo's images: which are taught, which are held out, and that none is both."""

from __future__ import annotations

from pathlib import Path

import pytest

from keepsight.demo.data import DIGITS, FULL, SHORT, digits, from_folder, make_task
from keepsight.demo.errors import DemoError


def make_folder(root: Path, **counts: int) -> Path:
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for n in range(count):
            (root / name / f"{n}.png").write_bytes(f"{name}{n}".encode())
    return root


def test_digits_are_real_scans_split_into_two_tasks(tmp_path: Path) -> None:
    from PIL import Image

    data = digits(tmp_path, short=True)
    assert [task.classes for task in data.tasks] == [DIGITS[:5], DIGITS[5:]]
    assert data.classes == DIGITS
    assert "{}" in data.template
    for task in data.tasks:
        assert len(task.train) == 5 * SHORT.train
        assert len(task.held_out) == 5 * SHORT.held_out
        taught = {member.path for member in task.train}
        assert taught.isdisjoint(path for path, _ in task.held_out)
        assert all(path.parent.name == truth for path, truth in task.held_out)
        assert all(member.name.split("/")[0] == member.path.parent.name for member in task.train)
    with Image.open(data.tasks[0].held_out[0][0]) as image:
        assert min(image.size) >= 64
        assert image.getpixel((0, 0)) == 255  # paper is white


def test_the_full_slice_has_more_of_every_class() -> None:
    assert FULL.train > SHORT.train
    assert FULL.held_out > SHORT.held_out


def test_a_folders_classes_are_dealt_into_tasks_in_alphabetical_order(tmp_path: Path) -> None:
    data = from_folder(make_folder(tmp_path, c=8, a=8, b=8, d=8, e=8), tasks=2, short=False)
    assert [task.classes for task in data.tasks] == [("a", "b"), ("c", "d", "e")]
    assert [len(task.train) for task in data.tasks] == [12, 18]
    assert [len(task.held_out) for task in data.tasks] == [4, 6]


def test_as_many_tasks_as_classes_are_possible(tmp_path: Path) -> None:
    data = from_folder(make_folder(tmp_path, a=2, b=2, c=2), tasks=3, short=False)
    assert [(task.classes, len(task.train), len(task.held_out)) for task in data.tasks] == [
        (("a",), 1, 1), (("b",), 1, 1), (("c",), 1, 1),
    ]  # fmt: skip


def test_the_split_is_the_same_every_time(tmp_path: Path) -> None:
    files = {"a": [tmp_path / f"{n}.png" for n in range(20)]}
    for path in files["a"]:
        path.touch()
    assert make_task("t", files, SHORT) == make_task("t", files, SHORT)
    assert [path for path, _ in make_task("t", files, SHORT).held_out] != files["a"][:5]


def test_folders_that_cannot_be_toured_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DemoError, match="is not a folder; --data takes a folder with a subfolder of images per class"):
        from_folder(tmp_path / "none", tasks=2, short=False)
    one = make_folder(tmp_path / "one", a=5)
    with pytest.raises(DemoError, match="has 1 class folders with images; 2 tasks need at least 2"):
        from_folder(one, tasks=2, short=False)
    single = make_folder(tmp_path / "single", a=5, b=1)
    with pytest.raises(DemoError, match="has one image; the demo needs two"):
        from_folder(single, tasks=2, short=False)

"""UCF101 as the peers use it: the middle frame of every clip, in CoOp's layout."""

from __future__ import annotations

import re
from pathlib import Path

from benchmarks.accuracy.datasets.images import FileImages
from benchmarks.accuracy.datasets.types import Dataset, DatasetError, peer_dataset, require


def load_ucf101(root: Path, cache: Path) -> Dataset:
    """UCF101's middle frames with the first published split.

    Raises:
        DatasetMissingError: the frames folder or a list is missing.
        DatasetError: a list names an action that classInd.txt does not.
    """
    base = root / "ucf101"
    layout = (
        f"CoOp's layout (https://github.com/KaiyangZhou/CoOp/blob/main/DATASETS.md): {base}/UCF-101-midframes/"
        f"<Class_Name>/*.jpg and {base}/ucfTrainTestlist with classInd.txt, trainlist01.txt and testlist01.txt."
    )
    frames = require(base / "UCF-101-midframes", "ucf101", layout)
    lists = base / "ucfTrainTestlist"
    actions = [action for _, action in sorted(_class_lines(require(lists / "classInd.txt", "ucf101", layout)))]
    position = {action: index for index, action in enumerate(actions)}

    def part(name: str) -> FileImages:
        path = require(lists / name, "ucf101", layout)
        files: list[str] = []
        labels: list[int] = []
        for line in path.read_text(encoding="utf-8").splitlines():
            if not line.strip():
                continue
            action, _, clip = line.split()[0].partition("/")
            if action not in position:
                raise DatasetError(f"data set ucf101: {path.name} names {action!r}, which classInd.txt does not")
            files.append(f"{'_'.join(_words(action))}/{clip.removesuffix('.avi')}.jpg")
            labels.append(position[action])
        return FileImages(frames, files, labels)

    classes = [" ".join(_words(action)).lower() for action in actions]
    return peer_dataset("ucf101", classes, part("trainlist01.txt"), part("testlist01.txt"))


def _words(action: str) -> list[str]:
    """`ApplyEyeMakeup` -> Apply, Eye, Makeup: CoOp's folders are named so."""
    return re.findall("[A-Z][^A-Z]*", action)


def _class_lines(path: Path) -> list[tuple[int, str]]:
    lines = (line.split() for line in path.read_text(encoding="utf-8").splitlines() if line.strip())
    return [(int(number), action) for number, action in lines]

"""Data sets in their published layouts, as small as they can be."""

from __future__ import annotations

import pickle
import tarfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.accuracy.datasets import (
    LabelledImages,
)


def save_image(path: Path, *, grey: int = 0, size: tuple[int, int] = (6, 4)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (grey, grey, grey)).save(path)


def save_lines(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def save_pickle(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(value))


def count_of(images: LabelledImages) -> dict[int, int]:
    return dict(Counter(images.labels))


def greys_of(images: LabelledImages) -> list[int]:
    return [images.open(index).convert("L").getpixel((0, 0)) for index in range(len(images.labels))]  # type: ignore[misc]


def grey_rows(*greys: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.repeat(np.array(greys, dtype=np.uint8)[:, None], 3 * 32 * 32, axis=1)


def cifar100(root: Path) -> None:
    base = root / "cifar-100-python"
    save_pickle(base / "train", {"data": grey_rows(10, 20, 30), "fine_labels": [0, 1, 2], "coarse_labels": [0, 0, 0]})
    save_pickle(base / "test", {"data": grey_rows(40, 50, 60), "fine_labels": [2, 1, 0], "coarse_labels": [0, 0, 0]})
    save_pickle(base / "meta", {"fine_label_names": ["apple", "aquarium_fish", "baby"], "coarse_label_names": ["x"]})


def cifar10(root: Path) -> None:
    base = root / "cifar-10-batches-py"
    for batch in range(1, 6):
        save_pickle(base / f"data_batch_{batch}", {"data": grey_rows(batch, 10 * batch), "labels": [0, 1]})
    save_pickle(base / "test_batch", {"data": grey_rows(7, 8), "labels": [1, 0]})
    save_pickle(base / "batches.meta", {"label_names": ["airplane", "automobile"]})


def cifar10_npz(root: Path) -> None:
    pixels = np.arange(4, dtype=np.uint8)[:, None, None, None] * np.ones((1, 32, 32, 3), dtype=np.uint8)
    labels = np.array([0, 1, 1, 0], dtype=np.uint8)
    np.savez(
        root / "cifar10-6k.npz",
        x_train=pixels,
        y_train=labels,
        x_test=pixels[:2],
        y_test=labels[:2],
        classes=np.array(["airplane", "automobile"]),
    )


def imagenet_r(root: Path) -> None:
    base = root / "imagenet-r"
    save_lines(
        base / "README.txt",
        "ImageNet-R(endition) has 200 classes.",
        "",
        "n01443537 goldfish",
        "n01484850 great_white_shark",
    )
    for wnid in ("n01443537", "n01484850"):
        for number in range(10):
            save_image(base / wnid / f"art_{number}.jpg")


def imagenet_sub(root: Path) -> None:
    base = root / "imagenet"
    save_lines(base / "classnames.txt", "n01443537 goldfish", "n02110185 Siberian_Husky")
    for wnid in ("n01443537", "n02110185"):
        for number in range(3):
            save_image(base / "train" / wnid / f"{wnid}_{number}.JPEG")
        save_image(base / "val" / wnid / "ILSVRC2012_val_00000001.JPEG")


def cub200(root: Path) -> None:
    base = root / "CUB_200_2011"
    images = [
        "001.Black_footed_Albatross/a.jpg",
        "001.Black_footed_Albatross/b.jpg",
        "002.Least_Auklet/c.jpg",
        "002.Least_Auklet/d.jpg",
    ]
    save_lines(base / "images.txt", *(f"{index} {name}" for index, name in enumerate(images, 1)))
    save_lines(base / "image_class_labels.txt", "1 1", "2 1", "3 2", "4 2")
    save_lines(base / "train_test_split.txt", "1 0", "2 1", "3 1", "4 0")
    save_lines(base / "classes.txt", "1 001.Black_footed_Albatross", "2 002.Least_Auklet")
    for index, name in enumerate(images, 1):
        save_image(base / "images" / name, grey=50 * index)


def ucf101(root: Path) -> None:
    lists, frames = root / "ucf101" / "ucfTrainTestlist", root / "ucf101" / "UCF-101-midframes"
    save_lines(lists / "classInd.txt", "1 ApplyEyeMakeup", "2 YoYo")
    save_lines(lists / "trainlist01.txt", "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1", "YoYo/v_YoYo_g08_c01.avi 2")
    save_lines(lists / "testlist01.txt", "YoYo/v_YoYo_g01_c01.avi", "ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi")
    for group in ("g08", "g01"):
        save_image(frames / "Apply_Eye_Makeup" / f"v_ApplyEyeMakeup_{group}_c01.jpg")
        save_image(frames / "Yo_Yo" / f"v_YoYo_{group}_c01.jpg", grey=200)


CALTECH = ("BACKGROUND_Google", "Faces_easy", "accordion", "wild_cat")


def caltech_images(base: Path, *, per_class: int) -> None:
    for folder in CALTECH:
        for number in range(1, per_class + 1):
            save_image(base / folder / f"image_{number:04d}.jpg")


def caltech_lists(root: Path) -> None:
    save_lines(root / "caltech101-train.txt", *(f"{folder}/image_000{n}.jpg" for folder in CALTECH for n in (2, 3)))
    save_lines(root / "caltech101-test.txt", *(f"{folder}/image_0001.jpg" for folder in CALTECH))


def caltech101(root: Path) -> None:
    unpacked = root / "for-the-archive"
    caltech_images(unpacked, per_class=3)
    with tarfile.open(root / "caltech101-128px.tar", "w") as tar:
        for folder in CALTECH:
            tar.add(unpacked / folder, arcname=folder)
    caltech_lists(root)


MINIATURES: dict[str, Callable[[Path], None]] = {
    "cifar100": cifar100,
    "imagenet-r": imagenet_r,
    "imagenet-sub": imagenet_sub,
    "cub200": cub200,
    "ucf101": ucf101,
    "caltech101": caltech101,
    "cifar10": cifar10,
}
NAMES = {
    "cifar100": ("apple", "aquarium fish", "baby"),
    "imagenet-r": ("goldfish", "great white shark"),
    "imagenet-sub": ("goldfish", "Siberian Husky"),
    "cub200": ("Black footed Albatross", "Least Auklet"),
    "ucf101": ("apply eye makeup", "yo yo"),
    "caltech101": ("faces easy", "accordion", "wild cat"),
    "cifar10": ("airplane", "automobile"),
}

"""Folders as data sets, what is drawn from a data set, and its digest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.accuracy.datasets import (
    Dataset,
    DatasetError,
    DatasetMissingError,
    data_digest,
    load_dataset,
    subset,
    validation_slice,
)
from benchmarks.accuracy.datasets.images import ArrayImages, FileImages
from benchmarks.accuracy.datasets.selection import split_by_hash
from segp_cl.errors import ImageDecodeError
from tests.unit.benchmarks.accuracy.miniatures import count_of, cub200, greys_of, save_image, save_lines


class TestFolders:
    @pytest.mark.parametrize("part", ["test", "val"])
    def test_an_existing_split_is_used(self, part: str, tmp_path: Path) -> None:
        for folder in ("Red_fox", "wolf"):
            save_image(tmp_path / "zoo" / "train" / folder / "a.png", grey=10)
            save_image(tmp_path / "zoo" / part / folder / "b.png", grey=20)
        dataset = load_dataset(f"folder:{tmp_path / 'zoo'}", Path("unused"))
        assert (dataset.name, dataset.classes, dataset.tasks) == ("zoo", ("red fox", "wolf"), 2)
        assert (greys_of(dataset.train), greys_of(dataset.test)) == ([10, 10], [20, 20])

    def test_a_flat_directory_is_split_alike_wherever_it_lies(self, tmp_path: Path) -> None:
        for copy in ("here/zoo", "there/zoo"):
            for number in range(10):
                save_image(tmp_path / copy / "fox" / f"{number}.png", grey=number)
                save_image(tmp_path / copy / "wolf" / f"{number}.png", grey=100 + number)
        here, there = (load_dataset(str(tmp_path / copy), Path("unused")) for copy in ("here/zoo", "there/zoo"))
        assert (count_of(here.train), count_of(here.test)) == ({0: 8, 1: 8}, {0: 2, 1: 2})
        assert greys_of(here.test) == greys_of(there.test)
        assert sorted(greys_of(here.train) + greys_of(here.test)) == [*range(10), *range(100, 110)]

    def test_a_class_may_be_called_train(self, tmp_path: Path) -> None:
        for folder in ("train", "tram"):
            for name in ("a", "b"):
                save_image(tmp_path / folder / f"{name}.jpg")
        assert load_dataset(f"folder:{tmp_path}", Path("unused")).classes == ("train", "tram")

    def test_files_that_are_no_images_are_passed_over(self, tmp_path: Path) -> None:
        for name in ("a.JPEG", "b.png"):
            save_image(tmp_path / "fox" / name)
        for name in ("notes.txt", ".hidden.jpg"):
            save_lines(tmp_path / "fox" / name)
        (tmp_path / ".git").mkdir()
        dataset = load_dataset(f"folder:{tmp_path}", Path("unused"))
        assert len(dataset.train.labels) == len(dataset.test.labels) == 1

    def test_train_without_test_is_refused(self, tmp_path: Path) -> None:
        save_image(tmp_path / "train" / "fox" / "a.jpg")
        with pytest.raises(DatasetMissingError, match="test is missing"):
            load_dataset(f"folder:{tmp_path}", Path("unused"))

    def test_splits_with_different_classes_are_refused(self, tmp_path: Path) -> None:
        save_image(tmp_path / "train" / "fox" / "a.jpg")
        save_image(tmp_path / "test" / "wolf" / "a.jpg")
        with pytest.raises(DatasetError, match=r"\['fox', 'wolf'\] are in one only"):
            load_dataset(f"folder:{tmp_path}", Path("unused"))

    def test_names_that_become_the_same_are_refused(self, tmp_path: Path) -> None:
        for folder in ("Red_fox", "red fox"):
            for name in ("a", "b"):
                save_image(tmp_path / folder / f"{name}.jpg")
        with pytest.raises(DatasetError, match="share one: red fox"):
            load_dataset(f"folder:{tmp_path}", Path("unused"))

    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (lambda path: None, "is not a directory"),
            (lambda path: path.mkdir(), "holds no class folders"),
            (lambda path: (path / "fox").mkdir(parents=True), "holds no images"),
            (lambda path: save_image(path / "fox" / "a.jpg"), "holds one image"),
        ],
    )
    def test_what_is_no_such_directory_is_refused(
        self, make: Callable[[Path], None], message: str, tmp_path: Path
    ) -> None:
        make(tmp_path / "zoo")
        with pytest.raises(DatasetMissingError, match=message):
            load_dataset(f"folder:{tmp_path / 'zoo'}", Path("unused"))


def _numbered(labels: Sequence[int]) -> ArrayImages:
    pixels = np.arange(len(labels), dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 3), dtype=np.uint8)
    return ArrayImages(pixels, labels)


class TestSubset:
    images = _numbered([0, 1, 2] * 7 + [3])

    def test_has_so_many_of_each_class_or_all_it_has(self) -> None:
        assert count_of(subset(self.images, 4, seed=0)) == {0: 4, 1: 4, 2: 4, 3: 1}
        assert count_of(subset(self.images, None, seed=0)) == {0: 7, 1: 7, 2: 7, 3: 1}

    def test_images_keep_their_labels(self) -> None:
        chosen = subset(self.images, 3, seed=5)
        assert [self.images.labels[number] for number in greys_of(chosen)] == list(chosen.labels)

    def test_a_smaller_one_lies_within_a_larger_one(self) -> None:
        assert set(greys_of(subset(self.images, 2, seed=1))) < set(greys_of(subset(self.images, 5, seed=1)))

    def test_is_a_function_of_the_seed(self) -> None:
        draws = [greys_of(subset(self.images, 3, seed=seed)) for seed in (0, 0, 1)]
        assert draws[0] == draws[1] != draws[2]

    def test_none_of_a_class_is_refused(self) -> None:
        with pytest.raises(ValueError, match="per_class=0"):
            subset(self.images, 0, seed=0)


class TestValidationSlice:
    def test_divides_every_class(self) -> None:
        images = _numbered([0] * 20 + [1] * 10)
        rest, held_out = validation_slice(images, 0.2, seed=0)
        assert (count_of(rest), count_of(held_out)) == ({0: 16, 1: 8}, {0: 4, 1: 2})
        assert sorted(greys_of(rest) + greys_of(held_out)) == list(range(30))

    @pytest.mark.parametrize("fraction", [0.001, 0.999])
    def test_leaves_one_on_either_side_and_a_single_image_in_the_rest(self, fraction: float) -> None:
        rest, held_out = validation_slice(_numbered([0, 0, 1]), fraction, seed=0)
        assert (count_of(rest), count_of(held_out)) == ({0: 1, 1: 1}, {0: 1})

    def test_is_a_function_of_the_seed(self) -> None:
        slices = [greys_of(validation_slice(_numbered([0] * 30), 0.3, seed=seed)[1]) for seed in (0, 0, 1)]
        assert slices[0] == slices[1] != slices[2]

    @pytest.mark.parametrize("fraction", [0.0, 1.0])
    def test_a_fraction_that_leaves_nothing_is_refused(self, fraction: float) -> None:
        with pytest.raises(ValueError, match="between 0 and 1"):
            validation_slice(_numbered([0, 0]), fraction, seed=0)


def test_the_split_by_hash_does_not_depend_on_the_order_of_names() -> None:
    names = [f"fox/{number}.jpg" for number in range(10)]
    first, second = split_by_hash(names, 8)
    assert split_by_hash(reversed(names), 8) == (first, second)
    assert (len(first), sorted(first + second)) == (8, names)
    assert first != names[:8]


class TestFiles:
    def test_a_file_that_is_no_image_is_named_when_it_is_opened(self, tmp_path: Path) -> None:
        save_lines(tmp_path / "broken.jpg", "no image")
        images = FileImages(tmp_path, ["broken.jpg", "gone.jpg"], [0, 0])
        for index, name in enumerate(("broken.jpg", "gone.jpg")):
            with pytest.raises(ImageDecodeError, match=name):
                images.open(index)

    def test_drawing_on_an_opened_array_image_does_not_alter_the_data_set(self) -> None:
        images = _numbered([0, 0])
        images.open(0).paste((255, 255, 255), (0, 0, 2, 2))
        assert greys_of(images) == [0, 1]

    def test_pixels_that_are_not_8_bit_rgb_are_refused(self) -> None:
        with pytest.raises(ValueError, match="8-bit"):
            ArrayImages(np.zeros((1, 2, 2), dtype=np.uint8), [0])


class _Unidentified:
    """Images that offer only what `LabelledImages` asks for."""

    def __init__(self, grey: int) -> None:
        self._grey = grey

    @property
    def labels(self) -> Sequence[int]:
        return (0,)

    def open(self, index: int) -> Image.Image:
        return Image.new("RGB", (2, 2), (self._grey, 0, 0))


class TestDigest:
    dataset = Dataset("numbers", ("a", "b"), _numbered([0, 1, 0]), _numbered([1, 0]), 2, (0, 1))

    @pytest.mark.parametrize(
        "other",
        [
            replace(dataset, classes=("a", "c")),
            replace(dataset, train=_numbered([0, 1, 1])),
            replace(dataset, train=_numbered([0, 1, 0, 0])),
            replace(dataset, train=_numbered([1, 0]), test=_numbered([0, 1, 0])),
        ],
    )
    def test_changes_with_names_labels_images_and_the_split(self, other: Dataset) -> None:
        assert data_digest(other) != data_digest(self.dataset)

    def test_does_not_change_with_the_order_or_the_tasks(self) -> None:
        assert data_digest(replace(self.dataset, class_order=(1, 0), tasks=1)) == data_digest(self.dataset)

    def test_is_the_same_wherever_the_files_lie(self, tmp_path: Path) -> None:
        for copy in ("here", "there"):
            cub200(tmp_path / copy)
        here, there = (load_dataset("cub200", tmp_path / copy) for copy in ("here", "there"))
        assert data_digest(here) == data_digest(there)

    def test_changes_with_the_size_of_a_file(self, tmp_path: Path) -> None:
        cub200(tmp_path)
        before = data_digest(load_dataset("cub200", tmp_path))
        save_image(tmp_path / "CUB_200_2011" / "images" / "002.Least_Auklet" / "c.jpg", size=(300, 200))
        assert data_digest(load_dataset("cub200", tmp_path)) != before

    def test_a_listed_file_that_is_gone_is_named(self, tmp_path: Path) -> None:
        cub200(tmp_path)
        (tmp_path / "CUB_200_2011" / "images" / "002.Least_Auklet" / "c.jpg").unlink()
        with pytest.raises(DatasetMissingError, match=r"c\.jpg is missing"):
            data_digest(load_dataset("cub200", tmp_path))

    def test_a_subset_has_its_own(self) -> None:
        chosen = replace(self.dataset, train=subset(self.dataset.train, 1, seed=0))
        assert data_digest(chosen) != data_digest(self.dataset)

    def test_images_that_do_not_say_which_they_are_count_by_their_pixels(self) -> None:
        digests = {data_digest(replace(self.dataset, train=_Unidentified(grey))) for grey in (1, 1, 2)}
        assert len(digests) == 2

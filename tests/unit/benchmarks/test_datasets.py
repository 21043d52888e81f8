"""The benchmarks' data sets, each on a miniature of its published layout."""

from __future__ import annotations

import pickle
import tarfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from open_clip.zero_shot_metadata import IMAGENET_CLASSNAMES
from PIL import Image

from benchmarks.accuracy.datasets import (
    DATASETS,
    Dataset,
    DatasetError,
    DatasetMissingError,
    LabelledImages,
    data_digest,
    load_dataset,
    subset,
    validation_slice,
)
from benchmarks.accuracy.datasets.images import ArrayImages, FileImages
from benchmarks.accuracy.datasets.selection import split_by_hash
from benchmarks.accuracy.datasets.types import peer_order
from segp_cl.errors import ImageDecodeError, KeepsightError


def _image(path: Path, *, grey: int = 0, size: tuple[int, int] = (6, 4)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (grey, grey, grey)).save(path)


def _text(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _pickle(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(value))


def _counts(images: LabelledImages) -> dict[int, int]:
    return dict(Counter(images.labels))


def _greys(images: LabelledImages) -> list[int]:
    return [images.open(index).convert("L").getpixel((0, 0)) for index in range(len(images.labels))]  # type: ignore[misc]


def _rows(*greys: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.repeat(np.array(greys, dtype=np.uint8)[:, None], 3 * 32 * 32, axis=1)


def _cifar100(root: Path) -> None:
    base = root / "cifar-100-python"
    _pickle(base / "train", {"data": _rows(10, 20, 30), "fine_labels": [0, 1, 2], "coarse_labels": [0, 0, 0]})
    _pickle(base / "test", {"data": _rows(40, 50, 60), "fine_labels": [2, 1, 0], "coarse_labels": [0, 0, 0]})
    _pickle(base / "meta", {"fine_label_names": ["apple", "aquarium_fish", "baby"], "coarse_label_names": ["x"]})


def _cifar10(root: Path) -> None:
    base = root / "cifar-10-batches-py"
    for batch in range(1, 6):
        _pickle(base / f"data_batch_{batch}", {"data": _rows(batch, 10 * batch), "labels": [0, 1]})
    _pickle(base / "test_batch", {"data": _rows(7, 8), "labels": [1, 0]})
    _pickle(base / "batches.meta", {"label_names": ["airplane", "automobile"]})


def _cifar10_npz(root: Path) -> None:
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


def _imagenet_r(root: Path) -> None:
    base = root / "imagenet-r"
    _text(
        base / "README.txt",
        "ImageNet-R(endition) has 200 classes.",
        "",
        "n01443537 goldfish",
        "n01484850 great_white_shark",
    )
    for wnid in ("n01443537", "n01484850"):
        for number in range(10):
            _image(base / wnid / f"art_{number}.jpg")


def _imagenet_sub(root: Path) -> None:
    base = root / "imagenet"
    _text(base / "classnames.txt", "n01443537 goldfish", "n02110185 Siberian_Husky")
    for wnid in ("n01443537", "n02110185"):
        for number in range(3):
            _image(base / "train" / wnid / f"{wnid}_{number}.JPEG")
        _image(base / "val" / wnid / "ILSVRC2012_val_00000001.JPEG")


def _cub200(root: Path) -> None:
    base = root / "CUB_200_2011"
    images = [
        "001.Black_footed_Albatross/a.jpg",
        "001.Black_footed_Albatross/b.jpg",
        "002.Least_Auklet/c.jpg",
        "002.Least_Auklet/d.jpg",
    ]
    _text(base / "images.txt", *(f"{index} {name}" for index, name in enumerate(images, 1)))
    _text(base / "image_class_labels.txt", "1 1", "2 1", "3 2", "4 2")
    _text(base / "train_test_split.txt", "1 0", "2 1", "3 1", "4 0")
    _text(base / "classes.txt", "1 001.Black_footed_Albatross", "2 002.Least_Auklet")
    for index, name in enumerate(images, 1):
        _image(base / "images" / name, grey=50 * index)


def _ucf101(root: Path) -> None:
    lists, frames = root / "ucf101" / "ucfTrainTestlist", root / "ucf101" / "UCF-101-midframes"
    _text(lists / "classInd.txt", "1 ApplyEyeMakeup", "2 YoYo")
    _text(lists / "trainlist01.txt", "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1", "YoYo/v_YoYo_g08_c01.avi 2")
    _text(lists / "testlist01.txt", "YoYo/v_YoYo_g01_c01.avi", "ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi")
    for group in ("g08", "g01"):
        _image(frames / "Apply_Eye_Makeup" / f"v_ApplyEyeMakeup_{group}_c01.jpg")
        _image(frames / "Yo_Yo" / f"v_YoYo_{group}_c01.jpg", grey=200)


_CALTECH = ("BACKGROUND_Google", "Faces_easy", "accordion", "wild_cat")


def _caltech_images(base: Path, *, per_class: int) -> None:
    for folder in _CALTECH:
        for number in range(1, per_class + 1):
            _image(base / folder / f"image_{number:04d}.jpg")


def _caltech_lists(root: Path) -> None:
    _text(root / "caltech101-train.txt", *(f"{folder}/image_000{n}.jpg" for folder in _CALTECH for n in (2, 3)))
    _text(root / "caltech101-test.txt", *(f"{folder}/image_0001.jpg" for folder in _CALTECH))


def _caltech101(root: Path) -> None:
    unpacked = root / "for-the-archive"
    _caltech_images(unpacked, per_class=3)
    with tarfile.open(root / "caltech101-128px.tar", "w") as tar:
        for folder in _CALTECH:
            tar.add(unpacked / folder, arcname=folder)
    _caltech_lists(root)


_MINIATURES: dict[str, Callable[[Path], None]] = {
    "cifar100": _cifar100,
    "imagenet-r": _imagenet_r,
    "imagenet-sub": _imagenet_sub,
    "cub200": _cub200,
    "ucf101": _ucf101,
    "caltech101": _caltech101,
    "cifar10": _cifar10,
}
_NAMES = {
    "cifar100": ("apple", "aquarium fish", "baby"),
    "imagenet-r": ("goldfish", "great white shark"),
    "imagenet-sub": ("goldfish", "Siberian Husky"),
    "cub200": ("Black footed Albatross", "Least Auklet"),
    "ucf101": ("apply eye makeup", "yo yo"),
    "caltech101": ("faces easy", "accordion", "wild cat"),
    "cifar10": ("airplane", "automobile"),
}


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user-cache"))
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


def test_every_data_set_has_a_miniature_here() -> None:
    assert _MINIATURES.keys() == DATASETS.keys() == _NAMES.keys()


@pytest.mark.parametrize("name", DATASETS)
class TestEveryPublishedLayout:
    def test_classes_are_named_for_the_text_tower(self, name: str, root: Path) -> None:
        _MINIATURES[name](root)
        dataset = load_dataset(name, root)
        assert (dataset.name, dataset.classes) == (name, _NAMES[name])

    def test_every_class_is_in_both_splits(self, name: str, root: Path) -> None:
        _MINIATURES[name](root)
        dataset = load_dataset(name, root)
        everything = set(range(len(dataset.classes)))
        assert set(dataset.train.labels) == set(dataset.test.labels) == everything

    def test_every_image_opens_as_rgb_at_full_size(self, name: str, root: Path) -> None:
        _MINIATURES[name](root)
        dataset = load_dataset(name, root)
        for images in (dataset.train, dataset.test):
            opened = [images.open(index) for index in range(len(images.labels))]
            assert {image.mode for image in opened} == {"RGB"}
            assert {image.size for image in opened} <= {(6, 4), (32, 32)}

    def test_loading_again_gives_the_same_data(self, name: str, root: Path) -> None:
        _MINIATURES[name](root)
        assert data_digest(load_dataset(name, root)) == data_digest(load_dataset(name, root))

    def test_the_number_of_tasks_can_be_chosen(self, name: str, root: Path) -> None:
        _MINIATURES[name](root)
        assert load_dataset(name, root, tasks=1).tasks == 1
        with pytest.raises(DatasetError, match="cannot make 99 tasks"):
            load_dataset(name, root, tasks=99)

    def test_an_empty_root_is_answered_with_what_to_put_where(self, name: str, root: Path) -> None:
        with pytest.raises(DatasetMissingError, match=rf"Data set {name}: .*{root}.* Expected .*{root}"):
            load_dataset(name, root)

    def test_the_root_is_only_read(self, name: str, root: Path) -> None:
        _MINIATURES[name](root)
        before = sorted(root.rglob("*"))
        load_dataset(name, root)
        assert sorted(root.rglob("*")) == before


@pytest.mark.parametrize(
    ("name", "gone"),
    [
        ("cifar100", "cifar-100-python/meta"),
        ("cifar10", "cifar-10-batches-py/data_batch_3"),
        ("imagenet-r", "imagenet-r/README.txt"),
        ("cub200", "CUB_200_2011/train_test_split.txt"),
        ("ucf101", "ucf101/ucfTrainTestlist/testlist01.txt"),
    ],
)
def test_a_missing_file_is_named(name: str, gone: str, root: Path) -> None:
    _MINIATURES[name](root)
    (root / gone).unlink()
    with pytest.raises(DatasetMissingError, match=f"{root / gone} is missing. Expected"):
        load_dataset(name, root)


def test_an_unknown_name_lists_the_known_ones(root: Path) -> None:
    with pytest.raises(DatasetMissingError, match=r"no data set 'mnist'.*cifar100, imagenet-r.*folder:PATH"):
        load_dataset("mnist", root)
    assert issubclass(DatasetMissingError, KeepsightError)


class TestClassOrders:
    def test_the_peers_order_is_pycils(self) -> None:
        assert peer_order(100)[:10] == (68, 56, 78, 8, 23, 84, 90, 65, 74, 76)

    def test_the_peers_order_seeds_nothing_global(self) -> None:
        before = pickle.dumps(np.random.get_state())
        peer_order(100)
        assert pickle.dumps(np.random.get_state()) == before

    @pytest.mark.parametrize("name", sorted(DATASETS.keys() - {"caltech101"}))
    def test_published_data_sets_use_the_peers_order(self, name: str, root: Path) -> None:
        _MINIATURES[name](root)
        dataset = load_dataset(name, root)
        assert dataset.class_order == peer_order(len(dataset.classes))

    def test_caltech101_has_its_own_order(self, root: Path) -> None:
        _caltech101(root)
        assert load_dataset("caltech101", root).class_order == tuple(
            np.random.default_rng(1993).permutation(3).tolist()
        )


class TestCifar:
    def test_images_follow_their_labels(self, root: Path) -> None:
        _cifar100(root)
        dataset = load_dataset("cifar100", root)
        assert (list(dataset.test.labels), _greys(dataset.test)) == ([2, 1, 0], [40, 50, 60])

    def test_the_five_batches_are_read_in_order(self, root: Path) -> None:
        _cifar10(root)
        assert _greys(load_dataset("cifar10", root).train) == [1, 10, 2, 20, 3, 30, 4, 40, 5, 50]

    def test_the_array_file_serves_where_the_batches_are_absent(self, root: Path) -> None:
        _cifar10_npz(root)
        dataset = load_dataset("cifar10", root)
        assert dataset.classes == ("airplane", "automobile")
        assert (list(dataset.train.labels), _greys(dataset.train)) == ([0, 1, 1, 0], [0, 1, 2, 3])
        assert _counts(dataset.test) == {0: 1, 1: 1}

    def test_the_published_batches_come_before_the_array_file(self, root: Path) -> None:
        _cifar10_npz(root)
        _cifar10(root)
        assert len(load_dataset("cifar10", root).train.labels) == 10

    def test_an_array_file_without_an_array_is_refused(self, root: Path) -> None:
        np.savez(root / "cifar10-6k.npz", x_train=np.zeros((1, 32, 32, 3), dtype=np.uint8))
        with pytest.raises(DatasetMissingError, match="y_train"):
            load_dataset("cifar10", root)


class TestImageNetR:
    def test_is_split_80_to_20_within_each_class(self, root: Path) -> None:
        _imagenet_r(root)
        dataset = load_dataset("imagenet-r", root)
        assert (_counts(dataset.train), _counts(dataset.test)) == ({0: 8, 1: 8}, {0: 2, 1: 2})

    def test_an_existing_split_is_used(self, root: Path) -> None:
        _text(root / "imagenet-r" / "README.txt", "n01443537 goldfish")
        for part, greys in (("train", (10, 20)), ("test", (30, 40, 50))):
            for grey in greys:
                _image(root / "imagenet-r" / part / "n01443537" / f"{grey}.png", grey=grey)
        dataset = load_dataset("imagenet-r", root)
        assert (_greys(dataset.train), _greys(dataset.test)) == ([10, 20], [30, 40, 50])

    def test_a_class_without_a_name_is_named(self, root: Path) -> None:
        _imagenet_r(root)
        _text(root / "imagenet-r" / "README.txt", "n01443537 goldfish")
        with pytest.raises(DatasetMissingError, match=r"README\.txt does not name n01484850"):
            load_dataset("imagenet-r", root)


class TestImageNetSub:
    def test_takes_the_peers_hundred_of_a_thousand_with_clips_names(self, root: Path) -> None:
        wnids = [f"n{index:08d}" for index in range(1000)]
        chosen = sorted(np.random.RandomState(1993).permutation(1000)[:100].tolist())
        for wnid in wnids:
            (root / "imagenet" / "train" / wnid).mkdir(parents=True)
        for index in chosen:
            for part in ("train", "val"):
                _image(root / "imagenet" / part / wnids[index] / "a.JPEG", size=(1, 1))
        dataset = load_dataset("imagenet-sub", root)
        assert dataset.classes == tuple(IMAGENET_CLASSNAMES[index] for index in chosen)
        assert list(dataset.train.labels) == list(dataset.test.labels) == list(range(100))
        assert (dataset.tasks, dataset.class_order) == (10, peer_order(100))

    def test_a_selection_needs_its_names(self, root: Path) -> None:
        _imagenet_sub(root)
        (root / "imagenet" / "classnames.txt").unlink()
        with pytest.raises(DatasetMissingError, match=r"holds 2 classes and there is no .*classnames\.txt"):
            load_dataset("imagenet-sub", root)

    def test_an_unsorted_validation_folder_is_answered_with_the_class_that_is_missing(self, root: Path) -> None:
        _imagenet_sub(root)
        (root / "imagenet" / "val" / "n02110185" / "ILSVRC2012_val_00000001.JPEG").unlink()
        with pytest.raises(DatasetMissingError, match="val/n02110185 holds no images"):
            load_dataset("imagenet-sub", root)


class TestCub200:
    def test_the_published_split_is_used(self, root: Path) -> None:
        _cub200(root)
        dataset = load_dataset("cub200", root)
        assert list(dataset.train.labels) == list(dataset.test.labels) == [0, 1]
        assert _greys(dataset.train) == pytest.approx([100, 150], abs=2)
        assert _greys(dataset.test) == pytest.approx([50, 200], abs=2)

    def test_index_files_that_disagree_are_refused(self, root: Path) -> None:
        _cub200(root)
        _text(root / "CUB_200_2011" / "train_test_split.txt", "1 0", "2 1", "3 1")
        with pytest.raises(DatasetError, match="image 4 is not in all"):
            load_dataset("cub200", root)


class TestUcf101:
    def test_frames_are_found_from_the_names_of_the_clips(self, root: Path) -> None:
        _ucf101(root)
        test = load_dataset("ucf101", root).test
        assert list(test.labels) == [1, 0]
        assert _greys(test) == pytest.approx([200, 0], abs=2)

    def test_an_action_that_is_not_indexed_is_refused(self, root: Path) -> None:
        _ucf101(root)
        _text(root / "ucf101" / "ucfTrainTestlist" / "testlist01.txt", "TaiChi/v_TaiChi_g01_c01.avi")
        with pytest.raises(DatasetError, match=r"testlist01\.txt names 'TaiChi'"):
            load_dataset("ucf101", root)


class TestCaltech101:
    def test_the_lists_decide_and_the_background_is_left_out(self, root: Path) -> None:
        _caltech101(root)
        dataset = load_dataset("caltech101", root)
        assert (_counts(dataset.train), _counts(dataset.test)) == ({0: 2, 1: 2, 2: 2}, {0: 1, 1: 1, 2: 1})

    def test_the_archive_is_unpacked_once(self, root: Path, tmp_path: Path) -> None:
        _caltech101(root)
        load_dataset("caltech101", root)
        (unpacked,) = (tmp_path / "user-cache" / "keepsight-bench").iterdir()
        stamp = unpacked / "accordion" / "stamp"
        stamp.touch()
        load_dataset("caltech101", root)
        assert stamp.exists()

    def test_the_cache_can_be_elsewhere(self, root: Path, tmp_path: Path) -> None:
        _caltech101(root)
        load_dataset("caltech101", root, cache=tmp_path / "elsewhere")
        assert len(list((tmp_path / "elsewhere").iterdir())) == 1
        assert not (tmp_path / "user-cache").exists()

    def test_a_damaged_archive_leaves_nothing_in_the_cache(self, root: Path, tmp_path: Path) -> None:
        _caltech101(root)
        archive = root / "caltech101-128px.tar"
        archive.write_bytes(archive.read_bytes()[:1300])  # within the first file
        with pytest.raises(DatasetMissingError, match="cannot be unpacked"):
            load_dataset("caltech101", root, cache=tmp_path / "cache")
        assert list((tmp_path / "cache").iterdir()) == []

    def test_an_archive_that_reaches_outside_is_refused(self, root: Path, tmp_path: Path) -> None:
        _image(root / "evil.jpg")
        with tarfile.open(root / "caltech101-128px.tar", "w") as tar:
            tar.add(root / "evil.jpg", arcname="../evil.jpg")
        with pytest.raises(DatasetMissingError, match="cannot be unpacked"):
            load_dataset("caltech101", root, cache=tmp_path / "cache")
        assert list((tmp_path / "cache").iterdir()) == []

    def test_the_published_folder_uses_the_lists_beside_it(self, root: Path) -> None:
        _caltech_images(root / "caltech101" / "101_ObjectCategories", per_class=3)
        _caltech_lists(root / "caltech101")
        assert _counts(load_dataset("caltech101", root).train) == {0: 2, 1: 2, 2: 2}

    def test_without_lists_thirty_images_of_each_class_are_for_training(self, root: Path) -> None:
        _caltech_images(root / "caltech101" / "101_ObjectCategories", per_class=33)
        dataset = load_dataset("caltech101", root)
        assert (_counts(dataset.train), _counts(dataset.test)) == ({0: 30, 1: 30, 2: 30}, {0: 3, 1: 3, 2: 3})

    def test_one_list_without_the_other_is_refused(self, root: Path) -> None:
        _caltech101(root)
        (root / "caltech101-test.txt").unlink()
        with pytest.raises(DatasetMissingError, match="expected both"):
            load_dataset("caltech101", root)

    def test_an_image_that_a_list_names_must_be_there(self, root: Path) -> None:
        _caltech_images(root / "caltech101" / "101_ObjectCategories", per_class=2)
        _caltech_lists(root)
        with pytest.raises(DatasetMissingError, match=r"names Faces_easy/image_0003\.jpg, which is not in"):
            load_dataset("caltech101", root)

    def test_no_more_than_a_hundred_classes_are_taken(self, root: Path) -> None:
        for number in range(101):
            for image in ("a", "b"):
                _image(root / "caltech101" / "101_ObjectCategories" / f"c{number:03d}" / f"{image}.jpg", size=(1, 1))
        dataset = load_dataset("caltech101", root)
        assert (len(dataset.classes), dataset.classes[-1], dataset.tasks) == (100, "c099", 10)
        assert dataset.class_order[:5] == (40, 99, 72, 35, 79)


class TestFolders:
    @pytest.mark.parametrize("part", ["test", "val"])
    def test_an_existing_split_is_used(self, part: str, tmp_path: Path) -> None:
        for folder in ("Red_fox", "wolf"):
            _image(tmp_path / "zoo" / "train" / folder / "a.png", grey=10)
            _image(tmp_path / "zoo" / part / folder / "b.png", grey=20)
        dataset = load_dataset(f"folder:{tmp_path / 'zoo'}", Path("unused"))
        assert (dataset.name, dataset.classes, dataset.tasks) == ("zoo", ("red fox", "wolf"), 2)
        assert (_greys(dataset.train), _greys(dataset.test)) == ([10, 10], [20, 20])

    def test_a_flat_directory_is_split_alike_wherever_it_lies(self, tmp_path: Path) -> None:
        for copy in ("here/zoo", "there/zoo"):
            for number in range(10):
                _image(tmp_path / copy / "fox" / f"{number}.png", grey=number)
                _image(tmp_path / copy / "wolf" / f"{number}.png", grey=100 + number)
        here, there = (load_dataset(str(tmp_path / copy), Path("unused")) for copy in ("here/zoo", "there/zoo"))
        assert (_counts(here.train), _counts(here.test)) == ({0: 8, 1: 8}, {0: 2, 1: 2})
        assert _greys(here.test) == _greys(there.test)
        assert sorted(_greys(here.train) + _greys(here.test)) == [*range(10), *range(100, 110)]

    def test_a_class_may_be_called_train(self, tmp_path: Path) -> None:
        for folder in ("train", "tram"):
            for name in ("a", "b"):
                _image(tmp_path / folder / f"{name}.jpg")
        assert load_dataset(f"folder:{tmp_path}", Path("unused")).classes == ("train", "tram")

    def test_files_that_are_no_images_are_passed_over(self, tmp_path: Path) -> None:
        for name in ("a.JPEG", "b.png"):
            _image(tmp_path / "fox" / name)
        for name in ("notes.txt", ".hidden.jpg"):
            _text(tmp_path / "fox" / name)
        (tmp_path / ".git").mkdir()
        dataset = load_dataset(f"folder:{tmp_path}", Path("unused"))
        assert len(dataset.train.labels) == len(dataset.test.labels) == 1

    def test_train_without_test_is_refused(self, tmp_path: Path) -> None:
        _image(tmp_path / "train" / "fox" / "a.jpg")
        with pytest.raises(DatasetMissingError, match="test is missing"):
            load_dataset(f"folder:{tmp_path}", Path("unused"))

    def test_splits_with_different_classes_are_refused(self, tmp_path: Path) -> None:
        _image(tmp_path / "train" / "fox" / "a.jpg")
        _image(tmp_path / "test" / "wolf" / "a.jpg")
        with pytest.raises(DatasetError, match=r"\['fox', 'wolf'\] are in one only"):
            load_dataset(f"folder:{tmp_path}", Path("unused"))

    def test_names_that_become_the_same_are_refused(self, tmp_path: Path) -> None:
        for folder in ("Red_fox", "red fox"):
            for name in ("a", "b"):
                _image(tmp_path / folder / f"{name}.jpg")
        with pytest.raises(DatasetError, match="share one: red fox"):
            load_dataset(f"folder:{tmp_path}", Path("unused"))

    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (lambda path: None, "is not a directory"),
            (lambda path: path.mkdir(), "holds no class folders"),
            (lambda path: (path / "fox").mkdir(parents=True), "holds no images"),
            (lambda path: _image(path / "fox" / "a.jpg"), "holds one image"),
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
        assert _counts(subset(self.images, 4, seed=0)) == {0: 4, 1: 4, 2: 4, 3: 1}
        assert _counts(subset(self.images, None, seed=0)) == {0: 7, 1: 7, 2: 7, 3: 1}

    def test_images_keep_their_labels(self) -> None:
        chosen = subset(self.images, 3, seed=5)
        assert [self.images.labels[number] for number in _greys(chosen)] == list(chosen.labels)

    def test_a_smaller_one_lies_within_a_larger_one(self) -> None:
        assert set(_greys(subset(self.images, 2, seed=1))) < set(_greys(subset(self.images, 5, seed=1)))

    def test_is_a_function_of_the_seed(self) -> None:
        draws = [_greys(subset(self.images, 3, seed=seed)) for seed in (0, 0, 1)]
        assert draws[0] == draws[1] != draws[2]

    def test_none_of_a_class_is_refused(self) -> None:
        with pytest.raises(ValueError, match="per_class=0"):
            subset(self.images, 0, seed=0)


class TestValidationSlice:
    def test_divides_every_class(self) -> None:
        images = _numbered([0] * 20 + [1] * 10)
        rest, held_out = validation_slice(images, 0.2, seed=0)
        assert (_counts(rest), _counts(held_out)) == ({0: 16, 1: 8}, {0: 4, 1: 2})
        assert sorted(_greys(rest) + _greys(held_out)) == list(range(30))

    @pytest.mark.parametrize("fraction", [0.001, 0.999])
    def test_leaves_one_on_either_side_and_a_single_image_in_the_rest(self, fraction: float) -> None:
        rest, held_out = validation_slice(_numbered([0, 0, 1]), fraction, seed=0)
        assert (_counts(rest), _counts(held_out)) == ({0: 1, 1: 1}, {0: 1})

    def test_is_a_function_of_the_seed(self) -> None:
        slices = [_greys(validation_slice(_numbered([0] * 30), 0.3, seed=seed)[1]) for seed in (0, 0, 1)]
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
        _text(tmp_path / "broken.jpg", "no image")
        images = FileImages(tmp_path, ["broken.jpg", "gone.jpg"], [0, 0])
        for index, name in enumerate(("broken.jpg", "gone.jpg")):
            with pytest.raises(ImageDecodeError, match=name):
                images.open(index)

    def test_drawing_on_an_opened_array_image_does_not_alter_the_data_set(self) -> None:
        images = _numbered([0, 0])
        images.open(0).paste((255, 255, 255), (0, 0, 2, 2))
        assert _greys(images) == [0, 1]

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
            _cub200(tmp_path / copy)
        here, there = (load_dataset("cub200", tmp_path / copy) for copy in ("here", "there"))
        assert data_digest(here) == data_digest(there)

    def test_changes_with_the_size_of_a_file(self, tmp_path: Path) -> None:
        _cub200(tmp_path)
        before = data_digest(load_dataset("cub200", tmp_path))
        _image(tmp_path / "CUB_200_2011" / "images" / "002.Least_Auklet" / "c.jpg", size=(300, 200))
        assert data_digest(load_dataset("cub200", tmp_path)) != before

    def test_a_listed_file_that_is_gone_is_named(self, tmp_path: Path) -> None:
        _cub200(tmp_path)
        (tmp_path / "CUB_200_2011" / "images" / "002.Least_Auklet" / "c.jpg").unlink()
        with pytest.raises(DatasetMissingError, match=r"c\.jpg is missing"):
            data_digest(load_dataset("cub200", tmp_path))

    def test_a_subset_has_its_own(self) -> None:
        chosen = replace(self.dataset, train=subset(self.dataset.train, 1, seed=0))
        assert data_digest(chosen) != data_digest(self.dataset)

    def test_images_that_do_not_say_which_they_are_count_by_their_pixels(self) -> None:
        digests = {data_digest(replace(self.dataset, train=_Unidentified(grey))) for grey in (1, 1, 2)}
        assert len(digests) == 2

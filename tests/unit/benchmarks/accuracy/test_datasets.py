"""The benchmarks' published data sets, each on a miniature of its layout."""

from __future__ import annotations

import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
from open_clip.zero_shot_metadata import IMAGENET_CLASSNAMES

from benchmarks.accuracy.datasets import (
    DATASETS,
    DatasetError,
    DatasetMissingError,
    data_digest,
    load_dataset,
)
from benchmarks.accuracy.datasets.types import peer_order
from segp_cl.errors import KeepsightError
from tests.unit.benchmarks.accuracy.miniatures import (
    MINIATURES,
    NAMES,
    caltech101,
    caltech_images,
    caltech_lists,
    cifar10,
    cifar10_npz,
    cifar100,
    count_of,
    cub200,
    greys_of,
    imagenet_r,
    imagenet_sub,
    save_image,
    save_lines,
    ucf101,
)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user-cache"))
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


def test_every_data_set_has_a_miniature_here() -> None:
    assert MINIATURES.keys() == DATASETS.keys() == NAMES.keys()


@pytest.mark.parametrize("name", DATASETS)
class TestEveryPublishedLayout:
    def test_classes_are_named_for_the_text_tower(self, name: str, root: Path) -> None:
        MINIATURES[name](root)
        dataset = load_dataset(name, root)
        assert (dataset.name, dataset.classes) == (name, NAMES[name])

    def test_every_class_is_in_both_splits(self, name: str, root: Path) -> None:
        MINIATURES[name](root)
        dataset = load_dataset(name, root)
        everything = set(range(len(dataset.classes)))
        assert set(dataset.train.labels) == set(dataset.test.labels) == everything

    def test_every_image_opens_as_rgb_at_full_size(self, name: str, root: Path) -> None:
        MINIATURES[name](root)
        dataset = load_dataset(name, root)
        for images in (dataset.train, dataset.test):
            opened = [images.open(index) for index in range(len(images.labels))]
            assert {image.mode for image in opened} == {"RGB"}
            assert {image.size for image in opened} <= {(6, 4), (32, 32)}

    def test_loading_again_gives_the_same_data(self, name: str, root: Path) -> None:
        MINIATURES[name](root)
        assert data_digest(load_dataset(name, root)) == data_digest(load_dataset(name, root))

    def test_the_number_of_tasks_can_be_chosen(self, name: str, root: Path) -> None:
        MINIATURES[name](root)
        assert load_dataset(name, root, tasks=1).tasks == 1
        with pytest.raises(DatasetError, match="cannot make 99 tasks"):
            load_dataset(name, root, tasks=99)

    def test_an_empty_root_is_answered_with_what_to_put_where(self, name: str, root: Path) -> None:
        with pytest.raises(DatasetMissingError, match=rf"data set {name}: .*{root}.* expected .*{root}"):
            load_dataset(name, root)

    def test_the_root_is_only_read(self, name: str, root: Path) -> None:
        MINIATURES[name](root)
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
    MINIATURES[name](root)
    (root / gone).unlink()
    with pytest.raises(DatasetMissingError, match=f"{root / gone} is missing; expected"):
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
        MINIATURES[name](root)
        dataset = load_dataset(name, root)
        assert dataset.class_order == peer_order(len(dataset.classes))

    def test_caltech101_has_its_own_order(self, root: Path) -> None:
        caltech101(root)
        assert load_dataset("caltech101", root).class_order == tuple(
            np.random.default_rng(1993).permutation(3).tolist()
        )


class TestCifar:
    def test_images_follow_their_labels(self, root: Path) -> None:
        cifar100(root)
        dataset = load_dataset("cifar100", root)
        assert (list(dataset.test.labels), greys_of(dataset.test)) == ([2, 1, 0], [40, 50, 60])

    def test_the_five_batches_are_read_in_order(self, root: Path) -> None:
        cifar10(root)
        assert greys_of(load_dataset("cifar10", root).train) == [1, 10, 2, 20, 3, 30, 4, 40, 5, 50]

    def test_the_array_file_serves_where_the_batches_are_absent(self, root: Path) -> None:
        cifar10_npz(root)
        dataset = load_dataset("cifar10", root)
        assert dataset.classes == ("airplane", "automobile")
        assert (list(dataset.train.labels), greys_of(dataset.train)) == ([0, 1, 1, 0], [0, 1, 2, 3])
        assert count_of(dataset.test) == {0: 1, 1: 1}

    def test_the_published_batches_come_before_the_array_file(self, root: Path) -> None:
        cifar10_npz(root)
        cifar10(root)
        assert len(load_dataset("cifar10", root).train.labels) == 10

    def test_an_array_file_without_an_array_is_refused(self, root: Path) -> None:
        np.savez(root / "cifar10-6k.npz", x_train=np.zeros((1, 32, 32, 3), dtype=np.uint8))
        with pytest.raises(DatasetMissingError, match="y_train"):
            load_dataset("cifar10", root)


class TestImageNetR:
    def test_is_split_80_to_20_within_each_class(self, root: Path) -> None:
        imagenet_r(root)
        dataset = load_dataset("imagenet-r", root)
        assert (count_of(dataset.train), count_of(dataset.test)) == ({0: 8, 1: 8}, {0: 2, 1: 2})

    def test_an_existing_split_is_used(self, root: Path) -> None:
        save_lines(root / "imagenet-r" / "README.txt", "n01443537 goldfish")
        for part, greys in (("train", (10, 20)), ("test", (30, 40, 50))):
            for grey in greys:
                save_image(root / "imagenet-r" / part / "n01443537" / f"{grey}.png", grey=grey)
        dataset = load_dataset("imagenet-r", root)
        assert (greys_of(dataset.train), greys_of(dataset.test)) == ([10, 20], [30, 40, 50])

    def test_a_class_without_a_name_is_named(self, root: Path) -> None:
        imagenet_r(root)
        save_lines(root / "imagenet-r" / "README.txt", "n01443537 goldfish")
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
                save_image(root / "imagenet" / part / wnids[index] / "a.JPEG", size=(1, 1))
        dataset = load_dataset("imagenet-sub", root)
        assert dataset.classes == tuple(IMAGENET_CLASSNAMES[index] for index in chosen)
        assert list(dataset.train.labels) == list(dataset.test.labels) == list(range(100))
        assert (dataset.tasks, dataset.class_order) == (10, peer_order(100))

    def test_a_selection_needs_its_names(self, root: Path) -> None:
        imagenet_sub(root)
        (root / "imagenet" / "classnames.txt").unlink()
        with pytest.raises(DatasetMissingError, match=r"holds 2 classes and there is no .*classnames\.txt"):
            load_dataset("imagenet-sub", root)

    def test_an_unsorted_validation_folder_is_answered_with_the_class_that_is_missing(self, root: Path) -> None:
        imagenet_sub(root)
        (root / "imagenet" / "val" / "n02110185" / "ILSVRC2012_val_00000001.JPEG").unlink()
        with pytest.raises(DatasetMissingError, match="val/n02110185 holds no images"):
            load_dataset("imagenet-sub", root)


class TestCub200:
    def test_the_published_split_is_used(self, root: Path) -> None:
        cub200(root)
        dataset = load_dataset("cub200", root)
        assert list(dataset.train.labels) == list(dataset.test.labels) == [0, 1]
        assert greys_of(dataset.train) == pytest.approx([100, 150], abs=2)
        assert greys_of(dataset.test) == pytest.approx([50, 200], abs=2)

    def test_index_files_that_disagree_are_refused(self, root: Path) -> None:
        cub200(root)
        save_lines(root / "CUB_200_2011" / "train_test_split.txt", "1 0", "2 1", "3 1")
        with pytest.raises(DatasetError, match="image 4 is not in all"):
            load_dataset("cub200", root)


class TestUcf101:
    def test_frames_are_found_from_the_names_of_the_clips(self, root: Path) -> None:
        ucf101(root)
        test = load_dataset("ucf101", root).test
        assert list(test.labels) == [1, 0]
        assert greys_of(test) == pytest.approx([200, 0], abs=2)

    def test_an_action_that_is_not_indexed_is_refused(self, root: Path) -> None:
        ucf101(root)
        save_lines(root / "ucf101" / "ucfTrainTestlist" / "testlist01.txt", "TaiChi/v_TaiChi_g01_c01.avi")
        with pytest.raises(DatasetError, match=r"testlist01\.txt names 'TaiChi'"):
            load_dataset("ucf101", root)


class TestCaltech101:
    def test_the_lists_decide_and_the_background_is_left_out(self, root: Path) -> None:
        caltech101(root)
        dataset = load_dataset("caltech101", root)
        assert (count_of(dataset.train), count_of(dataset.test)) == ({0: 2, 1: 2, 2: 2}, {0: 1, 1: 1, 2: 1})

    def test_the_archive_is_unpacked_once(self, root: Path, tmp_path: Path) -> None:
        caltech101(root)
        load_dataset("caltech101", root)
        (unpacked,) = (tmp_path / "user-cache" / "keepsight-bench").iterdir()
        stamp = unpacked / "accordion" / "stamp"
        stamp.touch()
        load_dataset("caltech101", root)
        assert stamp.exists()

    def test_the_cache_can_be_elsewhere(self, root: Path, tmp_path: Path) -> None:
        caltech101(root)
        load_dataset("caltech101", root, cache=tmp_path / "elsewhere")
        assert len(list((tmp_path / "elsewhere").iterdir())) == 1
        assert not (tmp_path / "user-cache").exists()

    def test_a_damaged_archive_leaves_nothing_in_the_cache(self, root: Path, tmp_path: Path) -> None:
        caltech101(root)
        archive = root / "caltech101-128px.tar"
        archive.write_bytes(archive.read_bytes()[:1300])  # within the first file
        with pytest.raises(DatasetMissingError, match="cannot be unpacked"):
            load_dataset("caltech101", root, cache=tmp_path / "cache")
        assert list((tmp_path / "cache").iterdir()) == []

    def test_an_archive_that_reaches_outside_is_refused(self, root: Path, tmp_path: Path) -> None:
        save_image(root / "evil.jpg")
        with tarfile.open(root / "caltech101-128px.tar", "w") as tar:
            tar.add(root / "evil.jpg", arcname="../evil.jpg")
        with pytest.raises(DatasetMissingError, match="cannot be unpacked"):
            load_dataset("caltech101", root, cache=tmp_path / "cache")
        assert list((tmp_path / "cache").iterdir()) == []

    def test_the_published_folder_uses_the_lists_beside_it(self, root: Path) -> None:
        caltech_images(root / "caltech101" / "101_ObjectCategories", per_class=3)
        caltech_lists(root / "caltech101")
        assert count_of(load_dataset("caltech101", root).train) == {0: 2, 1: 2, 2: 2}

    def test_without_lists_thirty_images_of_each_class_are_for_training(self, root: Path) -> None:
        caltech_images(root / "caltech101" / "101_ObjectCategories", per_class=33)
        dataset = load_dataset("caltech101", root)
        assert (count_of(dataset.train), count_of(dataset.test)) == ({0: 30, 1: 30, 2: 30}, {0: 3, 1: 3, 2: 3})

    def test_one_list_without_the_other_is_refused(self, root: Path) -> None:
        caltech101(root)
        (root / "caltech101-test.txt").unlink()
        with pytest.raises(DatasetMissingError, match="expected both"):
            load_dataset("caltech101", root)

    def test_an_image_that_a_list_names_must_be_there(self, root: Path) -> None:
        caltech_images(root / "caltech101" / "101_ObjectCategories", per_class=2)
        caltech_lists(root)
        with pytest.raises(DatasetMissingError, match=r"names Faces_easy/image_0003\.jpg, which is not in"):
            load_dataset("caltech101", root)

    def test_no_more_than_a_hundred_classes_are_taken(self, root: Path) -> None:
        for number in range(101):
            for image in ("a", "b"):
                save_image(
                    root / "caltech101" / "101_ObjectCategories" / f"c{number:03d}" / f"{image}.jpg", size=(1, 1)
                )
        dataset = load_dataset("caltech101", root)
        assert (len(dataset.classes), dataset.classes[-1], dataset.tasks) == (100, "c099", 10)
        assert dataset.class_order[:5] == (40, 99, 72, 35, 79)

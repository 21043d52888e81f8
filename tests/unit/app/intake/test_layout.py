"""Trees as people have them, and how each is read."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from app.errors import ArchiveError, TaskRefusedError
from app.intake.layout import MAX_FOLDERS, Entry, Layout, lay_out, parts_of, shown

TEST = "a test split, which is neither learned from nor measured on"
NO_IMAGE = "a folder without an image file"
EMPTY = "an empty folder"
NO_CLASS = "not in a class folder; expected one folder per class"


def entries(*paths: str) -> list[Entry]:
    return [Entry(path, 1, path.endswith("/")) for path in paths]


def read(tree: str) -> Layout:
    return lay_out(entries(*tree.split()))


def found(layout: Layout, tree: str, *, held_out: bool = False) -> dict[str, str]:
    """The class of every path that has one."""
    places = zip(tree.split(), layout.places, strict=True)
    return {path: place.label for path, place in places if place.label is not None and place.held_out == held_out}


@dataclass(frozen=True)
class Tree:
    """A tree, and what it means: `classes` by path, `val` likewise, and what is left out by its reason."""

    tree: str
    classes: dict[str, str]
    val: dict[str, str] = None  # type: ignore[assignment]
    passed_over: dict[str, str] = None  # type: ignore[assignment]
    rejected: tuple[str, ...] = ()


TREES = {
    "plain": Tree("cat/1.png dog/1.png", {"cat/1.png": "cat", "dog/1.png": "dog"}),
    "dots and backslashes": Tree("./cat/1.png dog\\1.png", {"./cat/1.png": "cat", "dog\\1.png": "dog"}),
    "one class": Tree("cat/1.png cat/2.png", {"cat/1.png": "cat", "cat/2.png": "cat"}),
    "names without suffix": Tree("cat/1 dog/2", {"cat/1": "cat", "dog/2": "dog"}),
    "one class without suffix beside others": Tree("cat/1.png dog/2", {"cat/1.png": "cat", "dog/2": "dog"}),
    "a top folder": Tree("data/ data/cat/ data/cat/1.png data/dog/1.png",
                         {"data/cat/1.png": "cat", "data/dog/1.png": "dog"}),
    "a top folder of one class": Tree("data/cat/1.png", {"data/cat/1.png": "cat"}),
    "two top folders on each other": Tree("archive/data/cat/1.png archive/data/dog/1.png",
                                          {"archive/data/cat/1.png": "cat", "archive/data/dog/1.png": "dog"}),
    "documents beside a top folder": Tree("README.md labels.csv data/cat/1.png data/dog/1.png",
                                          {"data/cat/1.png": "cat", "data/dog/1.png": "dog"},
                                          rejected=("README.md", "labels.csv")),
    "documents in a top folder": Tree("data/README data/LICENSE.txt data/cat/1.png data/dog/1.png",
                                      {"data/cat/1.png": "cat", "data/dog/1.png": "dog"},
                                      rejected=("data/README", "data/LICENSE.txt")),
    "an image beside a top folder": Tree("preview.png data/cat/1.png data/dog/1.png",
                                         {"data/cat/1.png": "cat", "data/dog/1.png": "dog"}, rejected=("preview.png",)),
    "images beside the classes": Tree("1.png cat/1.png dog/1.png", {"cat/1.png": "cat", "dog/1.png": "dog"},
                                      rejected=("1.png",)),
    "something unknown beside the classes": Tree("model.bin data/cat/1.png data/dog/1.png",
                                                 {"data/cat/1.png": "cat", "data/dog/1.png": "dog"},
                                                 rejected=("model.bin",)),
    "a folder of documents": Tree("cat/1.png dog/1.png annotations/cat.xml annotations/dog.xml",
                                  {"cat/1.png": "cat", "dog/1.png": "dog"}, passed_over={"annotations": NO_IMAGE}),
    "two top folders side by side": Tree("a/cat/1.png b/dog/1.png b/owl/1.png",
                                         {"a/cat/1.png": "cat", "b/dog/1.png": "dog", "b/owl/1.png": "owl"}),
    "train alone": Tree("train/cat/1.png train/dog/1.png", {"train/cat/1.png": "cat", "train/dog/1.png": "dog"}),
    "a folder called test alone": Tree("test/cat/1.png test/dog/1.png",
                                       {"test/cat/1.png": "cat", "test/dog/1.png": "dog"}),
    "train and val": Tree("train/cat/1.png val/cat/2.png train/dog/1.png",
                          {"train/cat/1.png": "cat", "train/dog/1.png": "dog"}, {"val/cat/2.png": "cat"}),
    "train, val and test in a top folder": Tree(
        "data/train/cat/1.png data/val/cat/2.png data/test/cat/3.png data/test/cat/4.png data/README.md",
        {"data/train/cat/1.png": "cat"}, {"data/val/cat/2.png": "cat"}, {"data/test": TEST}, ("data/README.md",)),
    "other words for them": Tree("Training/cat/1.png Validation/cat/2.png Testing/cat/3.png",
                                 {"Training/cat/1.png": "cat"}, {"Validation/cat/2.png": "cat"}, {"Testing": TEST}),
    "shorter words for them": Tree("TRAIN/cat/1.png Valid/cat/2.png", {"TRAIN/cat/1.png": "cat"},
                                   {"Valid/cat/2.png": "cat"}),
    "longer words for them": Tree("training_set/cat/1.png test_set/cat/2.png dev-set/cat/3.png",
                                  {"training_set/cat/1.png": "cat"}, {"dev-set/cat/3.png": "cat"}, {"test_set": TEST}),
    "split folders within themselves": Tree("seg_train/seg_train/cat/1.png seg_train/seg_train/dog/1.png "
                                            "seg_test/seg_test/cat/2.png",
                                            {"seg_train/seg_train/cat/1.png": "cat",
                                             "seg_train/seg_train/dog/1.png": "dog"}, passed_over={"seg_test": TEST}),
    "a test split without classes": Tree("train/cat/1.png test/1.png test/2.png", {"train/cat/1.png": "cat"},
                                         passed_over={"test": TEST}),
    "images beside the classes of a split": Tree("train/1.png train/cat/1.png val/2.png val/cat/3.png",
                                                 {"train/cat/1.png": "cat"}, {"val/cat/3.png": "cat"},
                                                 rejected=("train/1.png", "val/2.png")),
    "sub-folders in a split": Tree("train/cat/2021/1.png train/dog/1.png val/dog/deep/2.png val/cat/3.png",
                                   {"train/cat/2021/1.png": "cat", "train/dog/1.png": "dog"},
                                   {"val/dog/deep/2.png": "dog", "val/cat/3.png": "cat"}),
    "a folder of images in every class of a split": Tree("train/n01/images/1.png train/n02/images/2.png val/n01/3.png",
                                                         {"train/n01/images/1.png": "n01",
                                                          "train/n02/images/2.png": "n02"}, {"val/n01/3.png": "n01"}),
    "splits within the classes": Tree("cat/train/1.png cat/val/2.png dog/train/3.png dog/val/4.png dog/test/5.png",
                                      {"cat/train/1.png": "cat", "dog/train/3.png": "dog"},
                                      {"cat/val/2.png": "cat", "dog/val/4.png": "dog"}, {"dog/test": TEST}),
    "splits within one class": Tree("cat/train/1.png cat/val/2.png cat/notes.txt dog/3.png",
                                    {"cat/train/1.png": "cat", "dog/3.png": "dog", "cat/notes.txt": "cat"},
                                    {"cat/val/2.png": "cat"}),
    "a class called train": Tree("train/1.png bus/1.png car/1.png",
                                 {"train/1.png": "train", "bus/1.png": "bus", "car/1.png": "car"}),
    "classes called train and test beside another": Tree("train/1.png test/1.png car/1.png",
                                                         {"train/1.png": "train", "test/1.png": "test",
                                                          "car/1.png": "car"}),
    "a class called train alone": Tree("train/1.png train/2.png", {"train/1.png": "train", "train/2.png": "train"}),
    "a class called train with a sub-folder": Tree("train/2021/1.png bus/1.png",
                                                   {"train/2021/1.png": "train", "bus/1.png": "bus"}),
    "one class in sub-folders": Tree("cat/2021/1.png cat/2022/2.png dog/1.png",
                                     {"cat/2021/1.png": "cat", "cat/2022/2.png": "cat", "dog/1.png": "dog"}),
    "some images of a class in a sub-folder": Tree("cat/1.png cat/more/2.png dog/1.png",
                                                   {"cat/1.png": "cat", "cat/more/2.png": "cat", "dog/1.png": "dog"}),
    "only one class, some in a sub-folder": Tree("cat/1.png cat/more/2.png",
                                                 {"cat/1.png": "cat", "cat/more/2.png": "cat"}),
    "only one class, all in folders of dates": Tree("cat/2021/1.png cat/2022-05-31/2.png",
                                                    {"cat/2021/1.png": "cat", "cat/2022-05-31/2.png": "cat"}),
    "sub-folders of several depths": Tree("cat/a/b/c/1.png cat/2.png dog/x/3.png owl/4.png",
                                          {"cat/a/b/c/1.png": "cat", "cat/2.png": "cat", "dog/x/3.png": "dog",
                                           "owl/4.png": "owl"}),
    "every class in folders of dates": Tree("cat/2021/1.png cat/2022/2.png dog/2021/3.png",
                                            {"cat/2021/1.png": "cat", "cat/2022/2.png": "cat",
                                             "dog/2021/3.png": "dog"}),
    "every class in one folder of the same name": Tree("cat/JPG/1.png dog/JPG/2.png",
                                                       {"cat/JPG/1.png": "cat", "dog/JPG/2.png": "dog"}),
    "one class in a folder of images": Tree("cat/images/1.png", {"cat/images/1.png": "cat"}),
    "one class in folders of months": Tree("cat/2021/2021-05/1.png cat/2022/2022-06/2.png",
                                           {"cat/2021/2021-05/1.png": "cat", "cat/2022/2022-06/2.png": "cat"}),
    "classes in folders of dates": Tree("data/2021/cat/1.png data/2022/cat/2.png data/2022/dog/3.png",
                                        {"data/2021/cat/1.png": "cat", "data/2022/cat/2.png": "cat",
                                         "data/2022/dog/3.png": "dog"}),
    "digits as classes": Tree("digits/0/1.png digits/1/1.png", {"digits/0/1.png": "0", "digits/1/1.png": "1"}),
    "system folders": Tree(
        "cat/1.png cat/@eaDir/1.png/SYNO_THUMB.jpg $RECYCLE.BIN/S-1/x.png .Trashes/x.png lost+found/ #recycle/a/b.png "
        "__MACOSX/cat/._1.png __pycache__/x.pyc .ipynb_checkpoints/1.png",
        {"cat/1.png": "cat"},
        passed_over={"cat/@eaDir": "left by a network drive", "$RECYCLE.BIN": "left by Windows", ".Trashes": "hidden",
                     "lost+found": "left by the file system", "#recycle": "left by a network drive",
                     "__MACOSX": "left by macOS", "__pycache__": "left by Python", ".ipynb_checkpoints": "hidden"}),
    "system files": Tree(
        "cat/1.png cat/Thumbs.db cat/.DS_Store cat/._1.png desktop.ini cat/~$notes.docx",
        {"cat/1.png": "cat"},
        passed_over={"cat/Thumbs.db": "left by Windows", "cat/.DS_Store": "hidden", "cat/._1.png": "hidden",
                     "desktop.ini": "left by Windows", "cat/~$notes.docx": "a lock file of an office program"}),
    "an empty folder": Tree("cat/1.png dog/", {"cat/1.png": "cat"}, passed_over={"dog": EMPTY}),
    "empty folders in each other": Tree("cat/1.png dog/ dog/a/ dog/a/b/", {"cat/1.png": "cat"},
                                        passed_over={"dog": EMPTY}),
    "a folder with nothing but a hidden file": Tree("cat/1.png dog/.DS_Store", {"cat/1.png": "cat"},
                                                    passed_over={"dog/.DS_Store": "hidden", "dog": EMPTY}),
    "an empty folder in a class": Tree("cat/1.png cat/new/", {"cat/1.png": "cat"}, passed_over={"cat/new": EMPTY}),
    "an empty folder beside a top folder": Tree("data/cat/1.png data/dog/2.png new/",
                                                {"data/cat/1.png": "cat", "data/dog/2.png": "dog"},
                                                passed_over={"new": EMPTY}),
    "a class whose files are none": Tree("cat/1.png dog/1.png/ dog/0001",
                                         {"cat/1.png": "cat", "dog/0001": "dog"}, passed_over={"dog/1.png": EMPTY}),
    "nothing": Tree("", {}),
    "no class folder": Tree("1.png 2.png", {}, rejected=("1.png", "2.png")),
    "nothing but documents": Tree("cat/a.txt readme.md", {}, passed_over={"cat": NO_IMAGE}, rejected=("readme.md",)),
}  # fmt: skip


@pytest.mark.parametrize("tree", TREES.values(), ids=TREES.keys())
@pytest.mark.parametrize("backwards", [False, True], ids=["as listed", "backwards"])
def test_a_tree_means_what_people_mean_by_it(tree: Tree, backwards: bool) -> None:
    text = " ".join(reversed(tree.tree.split())) if backwards else tree.tree
    layout = read(text)
    assert found(layout, text) == tree.classes
    assert found(layout, text, held_out=True) == (tree.val or {})
    assert {row.path: row.reason for row in layout.passed_over} == (tree.passed_over or {})
    rejected = {path: p.reason for path, p in zip(text.split(), layout.places, strict=True) if p.reason is not None}
    assert rejected == dict.fromkeys(tree.rejected, NO_CLASS)
    assert layout.labels == tuple(sorted(set(tree.classes.values())))
    assert layout.held_out_labels == tuple(sorted(set((tree.val or {}).values())))


@pytest.mark.parametrize("tree", TREES.values(), ids=TREES.keys())
def test_every_file_has_a_class_or_is_told(tree: Tree) -> None:
    layout = read(tree.tree)
    told = [row.path for row in layout.passed_over]
    for path, place in zip(tree.tree.split(), layout.places, strict=True):
        plain = "/".join(parts_of(path))
        if not path.endswith("/") and place.label is None and place.reason is None:
            assert any(plain == row or plain.startswith(f"{row}/") for row in told), path


@pytest.mark.parametrize(
    ("tree", "said"),
    [
        ("data/1.png data/cat/1.png data/dog/1.png", "folder 'data' holds images and also folders of images"),
        ("train/1.png test/2.png", "no train folder with one folder per class"),
        ("train/1.png val/2.png test/3.png", "no train folder with one folder per class"),
        ("val/cat/1.png test/cat/2.png", "no train folder with one folder per class"),
        ("cat/train/1.png cat/val/2.png", "no train folder with one folder per class"),
        ("cat/front/1.png cat/side/2.png dog/front/3.png dog/side/4.png", "may be on either level"),
        ("a/cat/1.png a/dog/2.png b/cat/3.png", "may be on either level"),
        ("cat/1/1.png dog/2/2.png", "may be on either level"),
        ("a/cat/1.png b/more/dog/2.png", "may be on either level"),
        ("data/cat/1.png data/dog/1.png figures/1.png", "'data' holds folders of images"),
        ("train/cat/1.png test/cat/1.png samples/1.png", "holds folders of images"),
        ("a/train/cat/1.png b/train/dog/1.png", "may be on either level"),
    ],
)
def test_a_tree_with_two_readings_is_refused_with_what_was_seen(tree: str, said: str) -> None:
    with pytest.raises(TaskRefusedError, match=said):
        read(tree)


def test_what_is_passed_over_is_told_once_with_its_number_of_entries() -> None:
    (row,) = read("cat/1.png __MACOSX/ __MACOSX/cat/._1.png __MACOSX/cat/._2.png").passed_over
    assert (row.path, row.entries) == ("__MACOSX", 3)


def test_the_notes_say_how_folders_were_read() -> None:
    tree = "data/train/cat/1.png data/train/dog/a/1.png data/val/cat/2.png"
    assert read(tree).notes == (
        "the classes are the folders in 'data/train', 'data/val'",
        "the val split is measured on and not learned from; it has the classes 'cat'",
        "1 files in sub-folders of class folders belong to the classes 'dog'",
    )
    assert read("cat/1.png dog/1.png").notes == ()


@pytest.mark.parametrize(
    "path",
    ["../x/1.png", "cat/../../1.png", "cat\\..\\..\\1.png", "/etc/passwd", "\\\\host\\x", "C:\\x", "c:x", "a/\0b"],
)
def test_paths_that_leave_the_archive_refuse_the_whole_archive(path: str) -> None:
    with pytest.raises(ArchiveError):
        lay_out(entries("cat/1.png", path))


def test_a_path_of_very_many_folders_refuses_the_whole_archive() -> None:
    lay_out(entries("a/" * MAX_FOLDERS + "1.png"))
    with pytest.raises(ArchiveError, match="lies in 17 folders; at most 16"):
        lay_out(entries("a/" * (MAX_FOLDERS + 1) + "1.png"))


def test_two_dots_inside_a_name_are_harmless() -> None:
    assert parts_of("cat/a..b.png") == ("cat", "a..b.png")


def test_shown_paths_are_printable_valid_and_short() -> None:
    assert shown("a\x1b[31m\udcff/b") == "a�[31m?/b"
    assert len(shown("x" * 10_000)) == 200


def test_a_test_split_is_read_where_it_is_asked_for() -> None:
    tree = "train/cat/1.png train/dog/1.png val/cat/2.png test/cat/3.png test/yak/4.png test/5.png"
    layout = lay_out(entries(*tree.split()), with_test=True)
    of_test = {path: place.label for path, place in zip(tree.split(), layout.places, strict=True) if place.test}
    assert of_test == {"test/cat/3.png": "cat", "test/yak/4.png": "yak"}
    assert (layout.labels, layout.held_out_labels, layout.test_labels) == (("cat", "dog"), ("cat",), ("cat", "yak"))
    assert layout.places[-1].reason == NO_CLASS
    assert layout.passed_over == ()
    plain = read(tree)
    assert (plain.labels, plain.test_labels) == (("cat", "dog"), ())
    assert [(row.path, row.reason, row.entries) for row in plain.passed_over] == [("test", TEST, 3)]


def test_test_splits_of_single_classes_are_read_where_they_are_asked_for() -> None:
    tree = "cat/train/1.png cat/test/2.png dog/train/1.png dog/test/2.png"
    layout = lay_out(entries(*tree.split()), with_test=True)
    assert [(place.label, place.test) for place in layout.places] == [
        ("cat", False),
        ("cat", True),
        ("dog", False),
        ("dog", True),
    ]

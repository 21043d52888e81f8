from __future__ import annotations

import pytest

from app.errors import ArchiveError
from app.intake.layout import Entry, lay_out, parts_of, shown


def entries(*paths: str) -> list[Entry]:
    return [Entry(path, 1, path.endswith("/")) for path in paths]


def labels_of(*paths: str) -> list[str | None]:
    return [place.label for place in lay_out(entries(*paths)).places]


def test_the_folder_is_the_class() -> None:
    assert labels_of("cat/1.png", "dog/1.png") == ["cat", "dog"]


def test_a_common_top_level_folder_is_taken_away() -> None:
    layout = lay_out(entries("data/", "data/cat/", "data/cat/1.png", "data/dog/1.png"))
    assert [p.label for p in layout.places] == [None, None, "cat", "dog"]
    assert layout.labels == ("cat", "dog")


def test_a_single_class_is_not_taken_for_a_top_level_folder() -> None:
    assert labels_of("cat/1.png", "cat/2.png") == ["cat", "cat"]


def test_dot_components_and_backslashes_are_read_like_plain_paths() -> None:
    assert labels_of("./cat/1.png", "dog\\1.png") == ["cat", "dog"]


def test_files_outside_a_class_folder_and_too_deep_ones_are_rejected_with_a_reason() -> None:
    layout = lay_out(entries("readme.txt", "cat/1.png", "cat/more/2.png"))
    assert [p.reason for p in layout.places] == [
        "not in a class folder; expected one folder per class",
        None,
        "deeper than one folder per class",
    ]


def test_an_empty_folder_is_a_class_without_images() -> None:
    assert lay_out(entries("cat/1.png", "dog/")).labels == ("cat", "dog")


def test_what_operating_systems_leave_is_ignored_and_counted() -> None:
    layout = lay_out(
        entries("cat/1.png", "__MACOSX/cat/._1.png", "cat/.DS_Store", ".git/config", "cat/Thumbs.db", "cat/._1.png")
    )
    assert layout.ignored == 5
    assert layout.labels == ("cat",)
    assert all(p.label is None and p.reason is None for p in layout.places[1:])


@pytest.mark.parametrize(
    "path",
    ["../x/1.png", "cat/../../1.png", "cat\\..\\..\\1.png", "/etc/passwd", "\\\\host\\x", "C:\\x", "c:x", "a/\0b"],
)
def test_paths_that_leave_the_archive_refuse_the_whole_archive(path: str) -> None:
    with pytest.raises(ArchiveError):
        lay_out(entries("cat/1.png", path))


def test_two_dots_inside_a_name_are_harmless() -> None:
    assert parts_of("cat/a..b.png") == ("cat", "a..b.png")


def test_shown_paths_are_printable_valid_and_short() -> None:
    assert shown("a\x1b[31m\udcff/b") == "a�[31m?/b"
    assert len(shown("x" * 10_000)) == 200

"""Files found for sending, and every file that is left behind."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from keepsight.client.errors import UploadError
from keepsight.client.folders import Skipped, find_images, pack_folder

NOT_AN_IMAGE = "not called like an image that is read"


def make(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        if name.endswith("/"):
            path.mkdir(parents=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"x")
    return folder


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    return make(tmp_path / "pets", "cat/1.png", "cat/2.png", "dog/1.png", "dog/deep/er.png", "readme.txt")


def test_images_are_found_by_path_folder_and_glob_each_once(pets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(pets)
    found = find_images(["dog/1.png", "cat", "*/1.png", "**/er.png", "readme.txt"])
    assert [str(p) for p in found.files] == [
        "dog/1.png", "cat/1.png", "cat/2.png", "dog/deep/er.png", "readme.txt",
    ]  # fmt: skip
    assert found.skipped == ()


@pytest.mark.parametrize("suffix", ["avif", "heic", "heif", "jfif", "jpe", "JPG", "tif", "bmp", "webp", "gif", "Jpeg"])
def test_a_folder_s_images_are_known_by_every_suffix_that_is_read(tmp_path: Path, suffix: str) -> None:
    assert find_images([str(make(tmp_path, f"1.{suffix}"))]).files == (tmp_path / f"1.{suffix}",)


def test_what_a_folder_has_beside_its_images_is_told(tmp_path: Path) -> None:
    make(tmp_path, "1.png", "notes.txt", "raw/2.nef", ".hidden.png", ".git/3.png", "no_suffix")
    found = find_images([str(tmp_path), str(tmp_path / "no_suffix")])
    assert found.files == (tmp_path / "1.png", tmp_path / "no_suffix")
    assert set(found.skipped) == {
        Skipped(str(tmp_path / ".hidden.png"), "hidden"),
        Skipped(str(tmp_path / ".git"), "hidden"),
        Skipped(str(tmp_path / "notes.txt"), NOT_AN_IMAGE),
        Skipped(str(tmp_path / "raw/2.nef"), NOT_AN_IMAGE),
    }


def test_a_folder_without_images_is_an_error_that_names_what_is_there(tmp_path: Path) -> None:
    make(tmp_path, "a.txt", "b.nef", "c", "d")
    with pytest.raises(UploadError, match=r"has no images in it; skipped .*a\.txt \(not called .* and 1 more"):
        find_images([str(tmp_path)])


def test_a_name_with_brackets_is_a_file_before_it_is_a_pattern(tmp_path: Path) -> None:
    odd = make(tmp_path, "a[1].png") / "a[1].png"
    assert find_images([str(odd)]).files == (odd,)


@pytest.mark.parametrize(
    ("argument", "sentence"), [("gone.png", "gone.png does not exist"), ("*.webp", "does not exist"), ("", "no images")]
)
def test_an_argument_that_leads_nowhere_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, argument: str, sentence: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UploadError, match=sentence):
        find_images([argument])


def test_links_are_followed_once_and_what_leads_nowhere_is_told(pets: Path, tmp_path: Path) -> None:
    make(tmp_path / "elsewhere", "1.png")
    (pets / "fox").symlink_to(tmp_path / "elsewhere")
    (pets / "cat" / "again").symlink_to(pets)
    (pets / "cat" / "gone.png").symlink_to(tmp_path / "gone")
    os.mkfifo(pets / "cat" / "pipe.png")
    packed = pack_folder(pets)
    assert [member.name for member in packed.members] == [
        "cat/1.png", "cat/2.png", "dog/1.png", "dog/deep/er.png", "fox/1.png",
    ]  # fmt: skip
    assert {each.path: each.reason for each in packed.skipped} == {
        "cat/again": "a link to a folder that is sent already",
        "cat/gone.png": "not a file, or a link that leads nowhere",
        "cat/pipe.png": "not a file, or a link that leads nowhere",
        "readme.txt": "not in a class folder; expected one folder per class",
    }


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_cannot_be_read_is_an_error(pets: Path) -> None:
    (pets / "dog").chmod(0)
    try:
        with pytest.raises(UploadError, match="dog cannot be read: Permission denied"):
            pack_folder(pets)
    finally:
        (pets / "dog").chmod(0o700)


def test_folders_are_walked_only_so_deep(tmp_path: Path) -> None:
    make(tmp_path, "cat/1.png", "cat/" + "d/" * 99 + "2.png", "cat/" + "d/" * 101 + "3.png")
    packed = pack_folder(tmp_path)
    assert [member.path.name for member in packed.members if member.size] == ["1.png", "2.png"]
    assert [each.reason for each in packed.skipped] == ["deeper than 100 folders"]

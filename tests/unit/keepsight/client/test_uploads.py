"""Folders as tars that are made while they are read, and images found by paths."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest

from keepsight.client.errors import UploadError
from keepsight.client.folders import Skipped, pack_folder
from keepsight.client.uploads import TarUpload, open_task


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    folder = tmp_path / "pets"
    for name, data in {
        "cat/1.png": b"c" * 700,
        "cat/2.png": b"",
        "dog/1.png": b"d" * 512,
        "dog/deep/er.png": b"e",
        "dog/.DS_Store": b"x",
        ".git/config": b"x",
        "readme.txt": b"not in a class",
    }.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def test_a_folder_becomes_a_tar_of_its_visible_class_files(pets: Path) -> None:
    upload, filename = open_task(pets)
    with upload, tarfile.open(fileobj=io.BytesIO(upload.read())) as tar:
        found = {m.name: file.read() for m in tar.getmembers() if (file := tar.extractfile(m)) is not None}
    assert filename == "pets.tar"
    assert found == {"cat/1.png": b"c" * 700, "cat/2.png": b"", "dog/1.png": b"d" * 512, "dog/deep/er.png": b"e"}


def test_what_is_not_sent_of_a_folder_is_known(pets: Path) -> None:
    upload, _ = open_task(pets)
    with upload:
        assert sorted(upload.skipped, key=lambda each: each.path) == [
            Skipped(".git", "hidden"),
            Skipped("dog/.DS_Store", "hidden"),
            Skipped("readme.txt", "not in a class folder; expected one folder per class"),
        ]


def test_empty_folders_are_sent_so_that_the_service_can_tell_them(pets: Path) -> None:
    (pets / "fox" / "cubs").mkdir(parents=True)
    with TarUpload(pack_folder(pets).members) as upload:
        data = upload.read()
        assert len(data) == upload.size
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        assert [m.name for m in tar.getmembers() if m.isdir()] == ["fox/cubs"]


@pytest.mark.parametrize("chunk", [1, 100, 513, 65536])
def test_the_length_is_known_before_and_holds_however_it_is_read(pets: Path, chunk: int) -> None:
    with TarUpload(pack_folder(pets).members) as upload:
        parts = list(iter(lambda: upload.read(chunk), b""))
        assert all(len(part) == chunk for part in parts[:-1])
        assert sum(map(len, parts)) == upload.size


def test_long_and_foreign_names_survive_and_are_counted(tmp_path: Path) -> None:
    name = "ж" * 60 + "/" + "n" * 120 + ".png"
    path = tmp_path / "f" / name
    path.parent.mkdir(parents=True)
    path.write_bytes(b"1")
    with TarUpload(pack_folder(tmp_path / "f").members) as upload:
        data = upload.read()
        assert len(data) == upload.size
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        assert tar.getnames() == [name]


def test_reading_again_from_the_start_gives_the_same_bytes(pets: Path) -> None:
    seen: list[int] = []
    with TarUpload(pack_folder(pets).members, seen.append) as upload:
        first = upload.read(1000) + upload.read()
        assert upload.seek(0) == 0
        assert upload.read() == first
        assert upload.seek(0, os.SEEK_END) == upload.size
        assert upload.read() == b""
    assert seen == [1000, upload.size, upload.size]


def test_a_place_in_the_middle_is_not_offered(pets: Path) -> None:
    with TarUpload(pack_folder(pets).members) as upload, pytest.raises(io.UnsupportedOperation):
        upload.seek(5)


def test_a_file_that_changes_while_it_is_sent_ends_the_upload(pets: Path) -> None:
    with TarUpload(pack_folder(pets).members) as upload:
        (pets / "cat/1.png").write_bytes(b"longer than before" * 100)
        with pytest.raises(UploadError, match=r"1\.png changed while it was being sent"):
            upload.read()


def test_a_file_that_goes_away_ends_the_upload(pets: Path) -> None:
    with TarUpload(pack_folder(pets).members) as upload:
        (pets / "cat/1.png").unlink()
        with pytest.raises(UploadError, match=r"1\.png cannot be read: No such file"):
            upload.read()


def test_an_archive_is_sent_as_it_is(tmp_path: Path) -> None:
    archive = tmp_path / "pets.ZIP"
    archive.write_bytes(b"zipzip")
    seen: list[int] = []
    upload, filename = open_task(archive, seen.append)
    with upload:
        assert (upload.size, upload.read(4), upload.seek(0), upload.read(), filename) == (
            6, b"zipz", 0, b"zipzip", "pets.ZIP",
        )  # fmt: skip
    assert seen == [4, 6]


def test_sources_that_cannot_be_taught_are_refused_with_what_is_expected(tmp_path: Path) -> None:
    with pytest.raises(UploadError, match="does not exist; give a folder with a subfolder per class"):
        open_task(tmp_path / "nothing")
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(UploadError, match=r"notes\.txt is not an archive .*expected \.zip, \.tar"):
        open_task(tmp_path / "notes.txt")
    with pytest.raises(UploadError, match="has no class folders with files in them"):
        open_task(tmp_path)

"""Files and folders that only this user may read."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from keepsight.local.private import LONGEST_SOCKET_PATH, private_folder, socket_address


def test_a_folder_is_made_or_taken_from_the_others(tmp_path: Path) -> None:
    private_folder(tmp_path / "a" / "new")
    (tmp_path / "old").mkdir(mode=0o755)
    private_folder(tmp_path / "old")
    for folder in (tmp_path / "a" / "new", tmp_path / "old"):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_folder_of_somebody_else_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: tmp_path.stat().st_uid + 1)
    with pytest.raises(PermissionError, match="belongs to another user"):
        private_folder(tmp_path)


def test_a_socket_lies_beside_the_data_where_its_path_is_short_enough(tmp_path: Path) -> None:
    short = Path("/run/keepsight")
    with socket_address(short) as address:
        assert address == short / "broker.sock"
    deep = tmp_path / ("x" * LONGEST_SOCKET_PATH)
    with socket_address(deep) as address:
        assert len(os.fsencode(address)) <= LONGEST_SOCKET_PATH
        assert stat.S_IMODE(address.parent.stat().st_mode) == 0o700
    assert not address.parent.exists()


@pytest.mark.parametrize("runtime", ["", "short", "x" * LONGEST_SOCKET_PATH])
def test_the_other_folder_is_the_users_runtime_folder_if_there_is_a_short_one(
    monkeypatch: pytest.MonkeyPatch, runtime: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    import tempfile

    with tempfile.TemporaryDirectory(dir="/tmp") as base:
        if runtime:
            (Path(base) / runtime).mkdir()
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(Path(base) / runtime) if runtime else "")
        with socket_address(Path("/") / ("y" * LONGEST_SOCKET_PATH)) as address:
            assert (address.parent.parent == Path(base) / runtime) == (runtime == "short")

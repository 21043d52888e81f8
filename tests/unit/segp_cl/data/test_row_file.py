"""Rows in a file without a name: they come back as they were, or are said not to be there."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import pytest
import torch

from segp_cl.data.row_file import RowFile


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_rows_come_back_as_they_were(tmp_path: Path, dtype: torch.dtype) -> None:
    rows = torch.arange(4 * 6).view(4, 2, 3).to(dtype)
    file = RowFile(4, folder=tmp_path)
    for index in (2, 0):
        file.write(index, rows[index])
    assert [index in file for index in range(4)] == [True, False, True, False]
    assert torch.equal(file.read(2), rows[2])
    assert torch.equal(file.read(0), rows[0])
    file.write(2, rows[3].T.contiguous().T)  # however it lies in memory
    assert torch.equal(file.read(2), rows[3])


def test_a_row_that_was_cut_short_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = RowFile(2, folder=tmp_path)
    file.write(0, torch.ones(3))
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", lambda *_: 5)
        with pytest.raises(OSError, match="No space left"):
            file.write(0, torch.zeros(3))
    assert 0 not in file
    file.write(0, torch.zeros(3))
    assert torch.equal(file.read(0), torch.zeros(3))


def test_the_file_has_no_name_and_goes_with_its_object(tmp_path: Path) -> None:
    gc.collect()  # what earlier tests left open must not go while this one counts
    before = set(os.listdir("/proc/self/fd"))
    file = RowFile(2, folder=tmp_path)
    file.write(1, torch.ones(3))
    assert list(tmp_path.iterdir()) == []
    assert len(os.listdir("/proc/self/fd")) == len(before) + 1
    del file
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == len(before)

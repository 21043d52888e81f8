"""What the machine is called in records."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from benchmarks.common.machine import library_versions, machine, proc_field


def test_the_machine_is_described_without_names_or_paths() -> None:
    found = machine(threads=1)
    assert found["processor"]
    assert found["cores"] >= 1
    assert "/" not in json.dumps(found)


def test_the_processor_that_was_used_is_named_beside_the_libraries() -> None:
    found = library_versions(torch.device("cpu"))
    assert found["device"].startswith("cpu, ")
    assert found["torch"]


def test_the_first_field_of_a_name_counts(tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text("MemTotal:  2048 kB\nMemFree: 7 kB\nMemFree: 8 kB\n")
    assert proc_field(tmp_path / "meminfo", "MemFree") == "7 kB"
    assert proc_field(tmp_path / "meminfo", "Mem") is None
    assert proc_field(tmp_path / "nothing", "MemFree") is None

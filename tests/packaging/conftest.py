"""Both distributions, built once from a copy of what git tracks; or those that `KEEPSIGHT_DISTRIBUTIONS` holds."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.packaging.built import ROOT, Distributions, clean_environment


@pytest.fixture(scope="session")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Distributions:
    listing = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listing, capture_output=True, text=True, check=True).stdout.split("\0")
    tracked = frozenset(name for name in names if name and (ROOT / name).is_file())
    given = os.environ.get("KEEPSIGHT_DISTRIBUTIONS")
    if given:
        return Distributions(Path(given).resolve(), tracked)
    source = tmp_path_factory.mktemp("source")
    for name in tracked:
        target = source / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, target, follow_symlinks=False)
    folder = tmp_path_factory.mktemp("distributions")
    for project in (source / "keepsight" / "client", source):
        command = [sys.executable, "-P", "-m", "build", "--no-isolation", "--outdir", str(folder), str(project)]
        built = subprocess.run(
            command, cwd=folder, env=clean_environment(), capture_output=True, text=True, check=False
        )
        assert built.returncode == 0, built.stdout + built.stderr
    return Distributions(folder, tracked)

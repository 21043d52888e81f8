"""Has Lighthouse look at pages, where npm is installed: `scripts/pictures` does."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tests.browser.driving import FLAGS, find_chromium

VERSION: Final = "lighthouse@12.8.2"
_PATIENCE_S: Final = 300
_TRIES: Final = 3
"""Now and then it loses track of a page that loads at once, and asks to be run again."""


def scores(urls: Sequence[str]) -> dict[str, int] | str:
    """Return the lowest score of all pages for each category, of 100, or why there is none."""
    npx, chromium = shutil.which("npx"), find_chromium()
    if npx is None or chromium is None:
        return "not measured: it needs npm and Chromium"
    found = [_scores_of(url, npx, chromium) for url in urls]
    return {name: min(each[name] for each in found) for name in found[0]}


def _scores_of(url: str, npx: str, chromium: str) -> dict[str, int]:
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        flags = f"--chrome-flags=--headless {' '.join(FLAGS)}"
        command = (npx, "--yes", VERSION, url, "--quiet", "--output=json", f"--output-path={report}", flags)
        environment = {**os.environ, "CHROME_PATH": chromium}
        for left in reversed(range(_TRIES)):
            done = subprocess.run(command, env=environment, check=not left, timeout=_PATIENCE_S, stdout=subprocess.PIPE)
            if done.returncode == 0:
                break
        told = json.loads(report.read_text())
    return {name: round(100 * each["score"]) for name, each in told["categories"].items()}

"""Programs of this repository in a process of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parents[2]
"""Where they are started, so that our modules are found."""


class ProcessError(RuntimeError):
    """A process failed. The message holds the end of what it wrote to stderr."""


def answer_of(module: str, argument: str, *, environment: Mapping[str, str], code: Path = ROOT) -> Any:
    """What `python -m MODULE ARGUMENT` prints in its last line, as JSON; `environment` is laid over ours.

    `code` is the checkout whose module it is.

    Raises:
        ProcessError: it ends with an error.
    """
    command = [sys.executable, "-m", module, argument]
    done = subprocess.run(command, cwd=code, env={**os.environ, **environment}, capture_output=True, text=True)
    if done.returncode:
        raise ProcessError(f"{module} failed: {done.stderr.strip()[-1500:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])

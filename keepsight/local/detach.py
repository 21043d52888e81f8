"""`keepsight up --detach`: runs the command in the background, and waits until it is ready."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from keepsight.local.errors import StartError
from keepsight.local.logs import limit, open_log
from keepsight.local.supervisor import OUR_MODULE, bound, our_environment


def start_detached(
    arguments: Sequence[str],
    *,
    log: Path,
    environment: Mapping[str, str] | None = None,
    outlive_us: bool = True,
) -> dict[str, Any]:
    """Run `keepsight up ARGUMENTS` in a session of its own and wait until it is ready.

    Args:
        arguments: Of `up`.
        log: Where its own output goes; the parts have logs of their own.
        environment: Replaces ours.
        outlive_us: Whether it goes on when this process has ended, however that ends.

    Returns:
        The service's note: `url`, `pid` and so on.

    Raises:
        StartError: it ended instead; the message is its output.
    """
    limit(log)
    with open_log(log) as errors:
        start = errors.tell()
        process = subprocess.Popen(
            [*([] if outlive_us else bound()), *OUR_MODULE, "keepsight", "up", "--json", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=our_environment(environment),
            start_new_session=True,
        )
    assert process.stdout is not None, "it is a pipe"
    try:
        with process.stdout:
            note = _first_document(process.stdout)
        if note is None:
            process.wait()
            raise StartError(_said(log, start).removeprefix("keepsight: ") or f"it ended ({process.returncode})")
    except BaseException:
        if process.poll() is None:
            process.terminate()
            process.wait()
        raise
    process.returncode = 0  # it is to outlive us; nobody waits for it
    return note


def _first_document(output: Iterable[bytes]) -> dict[str, Any] | None:
    """Return the first JSON object in the lines; None if they end before."""
    read = b""
    for line in output:
        read += line
        with suppress(ValueError):
            document: dict[str, Any] = json.loads(read)
            return document
    return None


def _said(log: Path, start: int) -> str:
    try:
        with log.open("rb") as output:
            output.seek(start)
            return output.read().decode(errors="replace").strip()
    except OSError:
        return ""

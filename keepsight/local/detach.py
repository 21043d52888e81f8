"""`keepsight up --detach`: runs the command in the background, and waits until it is ready."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from keepsight.local.errors import StartError
from keepsight.local.instance import Instance
from keepsight.local.supervisor import OUR_MODULE, bound

POLL_S = 0.1


def start_detached(
    arguments: Sequence[str],
    *,
    store: Path,
    log: Path,
    environment: Mapping[str, str] | None = None,
    outlive_us: bool = True,
) -> dict[str, Any]:
    """Run `keepsight up ARGUMENTS` in a session of its own and wait until it is ready.

    Args:
        arguments: Of `up`.
        store: The store that they name.
        log: Where its own output goes; the parts have logs of their own.
        environment: Replaces ours.
        outlive_us: Whether it goes on when this process has ended, however that ends.

    Returns:
        The service's note: `url`, `pid` and so on.

    Raises:
        StartError: it ended instead; the message is its output.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        start = output.tell()
        process = subprocess.Popen(
            [*([] if outlive_us else bound()), *OUR_MODULE, "keepsight", "up", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=None if environment is None else dict(environment),
            start_new_session=True,
        )
    instance = Instance(store)
    try:
        while True:
            note = instance.note()
            if note is not None and note["pid"] == process.pid:
                process.returncode = 0  # it is to outlive us; nobody waits for it
                return note
            if process.poll() is not None:
                with log.open("rb") as output:
                    output.seek(start)
                    said = output.read().decode(errors="replace").strip()
                raise StartError(said.removeprefix("keepsight: ") or f"`keepsight up` ended ({process.returncode})")
            time.sleep(POLL_S)
    except BaseException:
        if process.poll() is None:
            process.terminate()
            process.wait()
        raise

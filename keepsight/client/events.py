"""Reads the server-sent events of a job, line by line."""

from __future__ import annotations

import json
from typing import cast

from keepsight.client.api import Job


class JobEvents:
    """Parses the lines of an event stream to jobs. Comments and events without data are ignored."""

    def __init__(self) -> None:
        self._data: list[str] = []

    def feed(self, line: str) -> Job | None:
        """Read a line and return a job, if the line ends an event.

        Raises:
            ValueError: the event's data is not JSON.
        """
        if line.startswith("data:"):
            self._data.append(line[5:].removeprefix(" "))
        if line or not self._data:
            return None
        data, self._data = "\n".join(self._data), []
        return cast(Job, json.loads(data))

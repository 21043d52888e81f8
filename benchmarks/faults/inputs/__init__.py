"""Bad inputs: each family first what is made by hand, then mutations of what is sound, always the same by seed."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Final

from benchmarks.faults.inputs.archives import bad_archives
from benchmarks.faults.inputs.bad import Bad
from benchmarks.faults.inputs.images import bad_images
from benchmarks.faults.inputs.requests import bad_requests
from benchmarks.faults.inputs.wire import bad_wire
from benchmarks.faults.pictures import Mark

COUNTS: Final = {"archive": 1200, "image": 1600, "request": 1500, "wire": 900}
QUICK: Final = {"archive": 150, "image": 220, "request": 250, "wire": 100}
"""Of each family; the first ones are made by hand."""


def bad_inputs(counts: dict[str, int], *, seed: int, mark: Mark) -> Iterator[Bad]:
    """So many of each family."""
    families = {
        "archive": bad_archives(seed),
        "image": bad_images(seed, mark.row),
        "request": bad_requests(seed),
        "wire": bad_wire(seed),
    }
    for name, count in counts.items():
        yield from islice(families[name], count)

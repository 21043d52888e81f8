"""Mutates tables and reads each in a fork of a process with the library loaded: thousands in a minute.

`python -P -m tests.unit.app.intake.parquet_fuzz FIRST COUNT` prints how they ended, and the most memory of any.
"""

from __future__ import annotations

import collections
import io
import json
import os
import random
import signal
import sys
import tempfile

import pyarrow as pa
import pyarrow.parquet as pq

from app.intake import parquet_child
from tests.unit.app.intake.mutations import mutate

LIMITS = {
    "memory_bytes": 160 << 20,
    "max_rows": 1000,
    "max_classes": 100,
    "max_label_chars": 1000,
    "max_image_bytes": 1 << 20,
    "max_unpacked_bytes": 64 << 20,
}
MOST_SECONDS = 60


def tables() -> list[bytes]:
    noise = random.Random(0)
    images = [noise.randbytes(200) for _ in range(20)]
    plain = {"image": images, "label": [str(number % 3) for number in range(20)]}
    nested = {"image": [{"bytes": image, "path": "a"} for image in images], "label": [n % 3 for n in range(20)]}
    made = []
    for columns in (plain, nested):
        for compression in ("none", "snappy", "zstd", "gzip"):
            buffer = io.BytesIO()
            pq.write_table(pa.table(columns), buffer, compression=compression, row_group_size=7)
            made.append(buffer.getvalue())
    return made


def read(data: bytes) -> tuple[str, int]:
    """Read a table in a fork; return how that ended, and the most memory it took, in bytes."""
    with tempfile.TemporaryFile() as file, tempfile.TemporaryFile() as out:
        file.write(data)
        file.flush()
        child = os.fork()
        if not child:
            signal.alarm(MOST_SECONDS)
            os.dup2(out.fileno(), 1)
            os.close(2)
            parquet_child.main(str(file.fileno()), json.dumps(LIMITS))
            sys.stdout.flush()
            os._exit(0)
        _, status, usage = os.wait4(child, 0)
        if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGALRM:
            return "hung", usage.ru_maxrss * 1024
        if status:
            return "died", usage.ru_maxrss * 1024
        out.seek(0)
        last = out.read().rsplit(b"\n", 2)[-2]
        return ("read" if b'"end"' in last else "refused" if b'"refused"' in last else "silent"), usage.ru_maxrss * 1024


def main(first: int, count: int) -> None:
    seeds, how, peak = tables(), collections.Counter[str](), 0
    for seed in range(first, first + count):
        noise = random.Random(seed)
        end, most = read(mutate(noise.choice(seeds), noise.choice(seeds), noise))
        how[end] += 1
        peak = max(peak, most)
    print(json.dumps({"how": how, "peak": peak}))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))

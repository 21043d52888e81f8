"""Watch a folder and classify every image file that appears in it, by a service that runs already.

    keepsight up --detach
    python examples/watch_a_folder.py photos/

Each image is classified once; a file that is written anew is classified again. Answers are lines on the standard
output: file, label, probability and model version, with tabs between. A service that cannot be reached is asked again.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from keepsight import ApiError, Client, ServiceUnreachableError

SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
BATCH = 64  # most images of one request

Stamp = tuple[int, int]
"""Size and modification time of a file: it changes while the file is being written."""


class Watcher:
    """Which image files of a folder are new and complete."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._seen: dict[Path, Stamp] = {}
        self._done: dict[Path, Stamp] = {}

    def look(self, *, wait_for_more: bool) -> list[Path]:
        """Images that are not done; with `wait_for_more` only those that have not changed since the last look."""
        now = dict(self._stamps())
        waiting = {path: stamp for path, stamp in now.items() if self._done.get(path) != stamp}
        ready = [path for path, stamp in waiting.items() if not wait_for_more or self._seen.get(path) == stamp]
        self._seen = now
        return ready

    def done(self, paths: Sequence[Path]) -> None:
        """These were classified as they were at the last look."""
        self._done |= {path: self._seen[path] for path in paths}

    def _stamps(self) -> Iterator[tuple[Path, Stamp]]:
        for path in sorted(self._folder.rglob("*")):
            if path.suffix.lower() in SUFFIXES and path.is_file():
                status = path.stat()
                yield path, (status.st_size, status.st_mtime_ns)


def classify(client: Client, paths: Sequence[Path]) -> None:
    """Ask the service and print its answers; an image that it cannot read is named on the standard error."""
    answer = client.classify(paths, top_k=1)
    for path, result in zip(paths, answer["results"], strict=True):
        if result["error"] is not None:
            print(f"{path}: {result['error'].get('detail')}", file=sys.stderr)
        for prediction in result["predictions"]:
            print(path, prediction["label"], f"{prediction['probability']:.3f}", answer["model_version"], sep="\t")


def main(arguments: Sequence[str] | None = None) -> int:
    """Look, classify, wait; until interrupted, or once."""
    parser = argparse.ArgumentParser(description="Classify the images in a folder as they appear.")
    parser.add_argument("folder", type=Path, help="where images appear; folders in it are watched too")
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="address of the service [%(default)s]")
    parser.add_argument("--api-key", help="a key with the scope classify, where the service has keys")
    parser.add_argument("--every", type=float, default=1.0, metavar="SECONDS", help="time between looks [%(default)s]")
    parser.add_argument("--once", action="store_true", help="classify what is there now, and end")
    options = parser.parse_args(arguments)
    if not options.folder.is_dir():
        parser.error(f"{options.folder} is not a folder")
    watcher = Watcher(options.folder)
    with Client(options.url, api_key=options.api_key) as client:
        while True:
            ready = watcher.look(wait_for_more=not options.once)
            try:
                for start in range(0, len(ready), BATCH):
                    batch = ready[start : start + BATCH]
                    classify(client, batch)
                    watcher.done(batch)
            except (ServiceUnreachableError, ApiError, OSError) as error:
                print(error, file=sys.stderr)
                if options.once:
                    return 1
            if options.once:
                return 0
            time.sleep(options.every)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(0)

"""Start a service, teach it two tasks from Python, classify, go back to the earlier version, and stop it.

    python examples/teach_a_service.py

Everything lies in a temporary folder that is removed at the end. The service is started and stopped by the command
line, as `keepsight up --detach` and `keepsight down`; what lies between uses `keepsight.Client` alone.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

from keepsight import Client

COLOURS = {"red": (220, 40, 40), "green": (40, 190, 50), "blue": (40, 70, 220), "yellow": (230, 220, 50)}
TASKS = {"warm and fresh": ("red", "green"), "cool and bright": ("blue", "yellow")}
QUICKLY = {"epochs": 2, "align_steps": 50}  # less than the defaults, to be done in seconds


def main() -> None:
    """The tour: teach, teach, classify, roll back, classify."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with service(folder / "var" / "store") as url, Client(url) as client:
            for task, colours in TASKS.items():
                draw(folder / task, colours)
                accepted = client.teach(
                    folder / task, name=task, template="a picture of something {}.", config=QUICKLY, seed=0
                )
                *_, job = client.follow(accepted["job_id"])
                print(f"{task}: {job['state']}")
            picture = folder / "cool and bright" / "blue" / "0.png"
            show(client, picture)
            moved = client.rollback(reason="to show that it can be done")
            print(f"rolled back from {moved['from']} to {moved['to']}")
            show(client, picture)


@contextmanager
def service(store: Path) -> Iterator[str]:
    """A service of its own on a free port, for as long as the context lasts; its address."""
    keepsight = [sys.executable, "-m", "keepsight"]
    command = [*keepsight, "up", "--detach", "--port", "0", "--store", str(store), "--json"]
    started = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    try:
        yield json.loads(started.stdout)["url"]
    finally:
        subprocess.run([*keepsight, "down", "--store", str(store)], check=True)


def draw(folder: Path, colours: tuple[str, ...]) -> None:
    """A folder of pictures for each colour, which is what `teach` uploads; no two pictures are the same."""
    shades = random.Random(0)
    for colour in colours:
        (folder / colour).mkdir(parents=True)
        for number in range(12):
            shade = tuple(max(0, min(255, value + shades.randint(-30, 30))) for value in COLOURS[colour])
            Image.new("RGB", (64, 64), shade).save(folder / colour / f"{number}.png")


def show(client: Client, picture: Path) -> None:
    """What the served version says about one picture, and which version that is."""
    answer = client.classify([picture], top_k=4)
    predictions = ", ".join(f"{p['label']} {p['probability']:.2f}" for p in answer["results"][0]["predictions"])
    print(f"{answer['model_version']} on a blue picture: {predictions}")


if __name__ == "__main__":
    main()

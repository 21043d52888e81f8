"""A set of real photographs of mixed sizes: crops of those that two Python packages ship, never scaled up."""

from __future__ import annotations

import hashlib
import io
import random
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any, Final

from PIL import Image

REQUIREMENTS: Final = Path(__file__).with_name("requirements.txt")
SHIPPED: Final = (
    "retina.jpg",
    "hubble_deep_field.jpg",
    "rocket.jpg",
    "astronaut.png",
    "chelsea.png",
    "coffee.png",
    "motorcycle_left.png",
)
SHORTEST, LONGEST, QUALITY = 300, 1000, 85
_RATIOS: Final = (3 / 2, 4 / 3, 16 / 9, 1.0, 3 / 4, 2 / 3)


class PhotosError(RuntimeError):
    """There are no photographs to measure with. The message says what to do."""


def sources(work: Path) -> list[Image.Image]:
    """The photographs that scikit-learn and scikit-image ship; the latter is unpacked under `work` once.

    Raises:
        PhotosError: it cannot be installed.
    """
    from sklearn.datasets import load_sample_images

    folder = work / "scikit-image"
    if not (folder / "skimage" / "data" / SHIPPED[0]).is_file():
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder)]
        done = subprocess.run([*command, "--requirement", str(REQUIREMENTS)], capture_output=True, text=True)
        if done.returncode:
            raise PhotosError(f"scikit-image's photographs cannot be had; use --data DIR instead: {done.stderr[-500:]}")
    found = [Image.fromarray(pixels) for pixels in load_sample_images().images]
    for name in SHIPPED:
        with Image.open(folder / "skimage" / "data" / name) as image:
            found.append(image.convert("RGB"))
    return found


def crops(pictures: Sequence[Image.Image], *, count: int, seed: int) -> list[bytes]:
    """`count` JPEG files of quality 85: the longer side 300 to 1000 pixels, common shapes, any place of any picture.

    A picture that is smaller than the size that was drawn does not come into question for it.
    """
    draw = random.Random(seed)
    found: list[bytes] = []
    while len(found) < count:
        longer, ratio = draw.randint(SHORTEST, LONGEST), draw.choice(_RATIOS)
        width = longer if ratio >= 1 else round(longer * ratio)
        height = round(longer / ratio) if ratio >= 1 else longer
        fitting = [picture for picture in pictures if picture.width >= width and picture.height >= height]
        if not fitting:
            continue
        picture = draw.choice(fitting)
        left, top = draw.randint(0, picture.width - width), draw.randint(0, picture.height - height)
        buffer = io.BytesIO()
        picture.crop((left, top, left + width, top + height)).save(buffer, "JPEG", quality=QUALITY)
        found.append(buffer.getvalue())
    return found


def prepare(target: Path, *, work: Path, count: int, data: Path | None, longest: int | None = None) -> dict[str, Any]:
    """Write the set to `target`, once; what it consists of.

    Args:
        target: folder; `000.jpg` and so on.
        work: where scikit-image is unpacked.
        count: how many files.
        data: the user's own JPEG files instead, the first `count` by name.
        longest: scale every image down to this longer side first (for many small requests).

    Raises:
        PhotosError: there are no photographs.
    """
    if not any(target.glob("*.jpg")):
        target.mkdir(parents=True, exist_ok=True)
        if data is None:
            files = crops(sources(work), count=count, seed=0)
        else:
            paths = sorted(path for path in data.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
            files = [path.read_bytes() for path in paths[:count]]
            if not files:
                raise PhotosError(f"{data} holds no .jpg or .jpeg files")
        for number, content in enumerate(files):
            (target / f"{number:03}.jpg").write_bytes(content if longest is None else smaller(content, longest))
    return describe(sorted(target.glob("*.jpg")), own=data is not None)


def smaller(content: bytes, longest: int) -> bytes:
    """The same picture, no side longer than `longest` pixels."""
    with Image.open(io.BytesIO(content)) as image:
        image.thumbnail((longest, longest))
        buffer = io.BytesIO()
        image.convert("RGB").save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()


def describe(paths: Sequence[Path], *, own: bool) -> dict[str, Any]:
    """How many, how large, and a digest of their bytes in order."""
    sizes: list[tuple[int, int]] = []
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.read_bytes())
        with Image.open(path) as image:
            sizes.append(image.size)
    longer = sorted(max(size) for size in sizes)
    return {
        "source": "the user's own" if own else "crops of photographs that scikit-learn and scikit-image ship",
        "files": len(paths),
        "longer_side_px": [longer[0], median(longer), longer[-1]],
        "bytes_median": median(path.stat().st_size for path in paths),
        "sha256": digest.hexdigest(),
    }

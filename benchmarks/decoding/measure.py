"""Ways of decoding compared on sets of photos: features, answers and times."""

from __future__ import annotations

import io
import random
import tarfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from PIL import Image, ImageStat
from torch import Tensor

from segp_cl.data.decoding import decode_image
from segp_cl.data.preprocessing import Preprocessing, to_pixels
from segp_cl.models.backbone import Backbone
from segp_cl.pixels import as_unit_pixels
from segp_cl.runtime.fast_decoding import SPARE, fast_pixels

Way = Callable[[bytes, Preprocessing], UInt8[Tensor, "3 size size"]]

LARGE = 300  # a picture whose shorter side has at least so many pixels is one to cut crops from
FLAT = 16.0  # a crop whose grey values vary by less is a piece of sky or margin, not a photo
ENLARGED = (2560, 3200)  # shorter side, from which on the fast way unpacks a JPEG at a fraction


def _exact(data: bytes, preprocessing: Preprocessing) -> UInt8[Tensor, "3 size size"]:
    return to_pixels(decode_image(data), preprocessing)


def _fast(spare: int) -> Way:
    return lambda data, preprocessing: fast_pixels(data, preprocessing, spare=spare)


WAYS: dict[str, Way] = {
    "exact": _exact,
    "fast": _fast(SPARE),
    "never scaled": _fast(1 << 20),
    "spare 4": _fast(4),
    "spare 2": _fast(2),
}


def pictures(folder: Path) -> Iterator[bytes]:
    """Every image file in a folder and in the tar archives beside it, in the order of their names."""
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in (".jpg", ".jpeg", ".png"):
            yield path.read_bytes()
        elif path.suffix == ".tar":
            with tarfile.open(path) as archive:
                for member in archive:
                    file = archive.extractfile(member)
                    if file is not None and member.name.lower().endswith((".jpg", ".jpeg")):
                        yield file.read()


def crops(photos: Sequence[Image.Image], count: int, *, enlarged: bool = False, seed: int = 0) -> list[bytes]:
    """JPEGs of 300 to 1,400 pixels on the longer side, cut from photos pixel for pixel, at qualities of 75 to 95.

    With `enlarged`, they are then scaled to a shorter side of 2,560 to 3,200 pixels, sides multiples of 8.
    """
    rng = random.Random(seed)
    made: list[bytes] = []
    while len(made) < count:
        photo = rng.choice(photos)
        longer = rng.randint(LARGE, min(1400, max(photo.size)))
        shorter = min(round(longer * rng.uniform(0.5, 1.0)), min(photo.size))
        width, height = (longer, shorter) if photo.width >= photo.height else (shorter, longer)
        left, top = rng.randint(0, photo.width - width), rng.randint(0, photo.height - height)
        crop = photo.crop((left, top, left + width, top + height))
        if ImageStat.Stat(crop.convert("L")).stddev[0] < FLAT:
            continue
        if enlarged:
            factor = rng.randint(*ENLARGED) / min(crop.size)
            size = (round(width * factor / 8) * 8, round(height * factor / 8) * 8)
            crop = crop.resize(size, Image.Resampling.BICUBIC)
        made.append(_jpeg(crop, quality=rng.randint(75, 95)))
    return made


@torch.inference_mode()
def features(
    backbone: Backbone, images: Sequence[bytes], way: Way, on_done: Callable[[int], None] = lambda _: None
) -> tuple[Float[Tensor, "images raw"], Float[Tensor, "images joint"]]:
    """Raw and joint features of images that were decoded in one way."""
    raw = []
    for start in range(0, len(images), 16):
        batch = [way(data, backbone.preprocessing) for data in images[start : start + 16]]
        raw.append(backbone.raw_features(as_unit_pixels(torch.stack(batch))))
        on_done(len(batch))
    return torch.cat(raw), backbone.project(torch.cat(raw))


def agreement(
    reference: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor], texts: Float[Tensor, "classes joint"]
) -> dict[str, Any]:
    """Cosines of features to the reference's, and how many images' best class differs.

    `margin`: by how much at most the reference preferred its class where the other way answers another one.
    """
    record: dict[str, Any] = {"images": len(reference[0])}
    for name, expected, got in zip(("raw", "joint"), reference, other, strict=True):
        cosines = F.cosine_similarity(expected, got)
        low = cosines.quantile(torch.tensor([0.0, 0.01, 0.5]))
        record[name] = dict(zip(("min", "p1", "median"), (round(float(value), 6) for value in low), strict=True))
    scores = reference[1] @ texts.T
    best, answers = scores.max(dim=1), (other[1] @ texts.T).argmax(dim=1)
    changed = best.indices != answers
    margins = (best.values - scores.gather(1, answers[:, None])[:, 0])[changed]
    record["changed"] = int(changed.sum())
    record["margin"] = float(f"{margins.max():.2g}") if record["changed"] else None
    return record


def speed(photo: Image.Image, preprocessing: Preprocessing, *, side: int, rounds: int) -> dict[str, Any]:
    """Median milliseconds of one image by the exact way, and how many times as fast each other way is."""
    data = _jpeg(photo.resize((side, side * 3 // 4), Image.Resampling.BICUBIC), quality=88)
    taken: dict[str, list[float]] = {name: [] for name in WAYS}
    for _ in range(rounds):
        for name, way in WAYS.items():
            taken[name].append(_seconds(lambda way=way: way(data, preprocessing)))  # type: ignore[misc]
    exact = median(taken["exact"])
    ratios = {name: round(exact / median(seconds), 2) for name, seconds in taken.items()}
    return {"width": side, "height": side * 3 // 4, "exact_ms": round(1000 * exact, 2), "ratios": ratios}


def threads_gain(images: Sequence[bytes], preprocessing: Preprocessing, *, rounds: int) -> dict[str, dict[str, float]]:
    """How many times as many images two and four threads decode as one does, by way."""
    gains: dict[str, dict[str, float]] = {}
    for name in ("exact", "fast"):
        taken: dict[int, list[float]] = {1: [], 2: [], 4: []}
        for _ in range(rounds):
            for threads, seconds in taken.items():
                with ThreadPoolExecutor(threads) as pool:
                    way = WAYS[name]
                    seconds.append(_seconds(lambda: list(pool.map(lambda d: way(d, preprocessing), images))))  # noqa: B023
        gains[name] = {str(n): round(median(taken[1]) / median(seconds), 2) for n, seconds in taken.items()}
    return gains


def _jpeg(image: Image.Image, *, quality: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def _seconds(run: Callable[[], object]) -> float:
    begun = time.perf_counter()
    run()
    return time.perf_counter() - begun

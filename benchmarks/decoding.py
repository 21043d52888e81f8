"""`python -m benchmarks.decoding`: what the fast way of decoding changes in features and answers, and what it saves.

The reference is the exact way, the models' published preprocessing. Three sets of JPEGs: small photos as they are,
crops of large ones, and crops enlarged to what a camera makes. Times are of one thread, ways in turn: ratios.
"""

from __future__ import annotations

import io
import random
import tarfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import PIL
import torch
import torch.nn.functional as F
import typer
from jaxtyping import Float, UInt8
from PIL import Image, ImageStat
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from benchmarks.cost.record import machine, save_bytes, save_json
from segp_cl.data.decoding import decode_image
from segp_cl.data.preprocessing import Preprocessing, to_pixels
from segp_cl.models.backbone import Backbone
from segp_cl.models.compact import imagenet_names
from segp_cl.models.load import load_backbone
from segp_cl.pixels import as_unit_pixels
from segp_cl.runtime.fast_decoding import SPARE, fast_pixels
from segp_cl.types import ModelSpec

Way = Callable[[bytes, Preprocessing], UInt8[Tensor, "3 size size"]]

LARGE = 300  # a picture whose shorter side has at least so many pixels is one to cut crops from
FLAT = 16.0  # a crop whose grey values vary by less is a piece of sky or margin, not a photo
ENLARGED = (2560, 3200)  # shorter side, from which on the fast way unpacks a JPEG at a fraction
SIDES = (128, 320, 640, 1024, 1400, 2048, 4032)  # longer sides that are timed, at 4:3


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


def page(record: dict[str, Any]) -> str:
    """The record in words and tables."""
    lines = [
        "# Decoding",
        "",
        "The exact way is the models' published preprocessing; the others scale with PyTorch's vectorised code. They "
        f"unpack a JPEG at a fraction of its size where that leaves `spare` times the wanted size: {SPARE} times "
        "(`fast`), 4, 2, or never. "
        "Written by `python -m benchmarks.decoding`.",
        "",
        "*{processor}, {cores} cores, torch {torch}, Pillow {pillow}, {date}*".format(**record["machine"]),
        "",
        "## Features and answers",
        "",
        f"Cosines to the exact way's features with `compact`, and best class out of {record['classes']} by the text "
        "path. Margin: by how much of a cosine, at most, the exact way preferred the class that another way did not "
        "choose. Photos of 2,560 px and more were not at hand in numbers, so crops were enlarged.",
        "",
        "| images | way | raw: min, 1 % | joint: min, 1 %, median | other best class | margin |",
        "|---|---|---|---|---|---|",
    ]
    for name, ways in record["agreement"].items():
        for way, found in ways.items():
            raw, joint = found["raw"], found["joint"]
            lines.append(
                f"| {found['images']:,} {name} | {way} | {raw['min']:.5f}, {raw['p1']:.5f} | {joint['min']:.5f}, "
                f"{joint['p1']:.5f}, {joint['median']:.5f} | {found['changed']} | {found['margin'] or '—'} |"
            )
    ways = [name for name in WAYS if name != "exact"]
    lines += [
        "",
        f"## Speed for pixels of {record['size']} px",
        "",
        f"How many times as fast as the exact way: bytes to pixels, one thread, medians of {record['rounds']} rounds.",
        "",
        f"| JPEG | exact, ms | {' | '.join(ways)} |",
        f"|---|---|{'---|' * len(ways)}",
    ]
    for row in record["speed"]:
        ratios = " | ".join(f"{row['ratios'][way]:.2f}" for way in ways)
        lines.append(f"| {row['width']} x {row['height']} | {row['exact_ms']:.2f} | {ratios} |")
    lines += [
        "",
        "Several threads, against one, on the crops: "
        + "; ".join(
            f"{way} {', '.join(f'{gain:.2f} with {n}' for n, gain in gains.items() if n != '1')}"
            for way, gains in record["threads"].items()
        )
        + ".",
    ]
    return "\n".join(lines) + "\n"


def _jpeg(image: Image.Image, *, quality: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def _seconds(run: Callable[[], object]) -> float:
    begun = time.perf_counter()
    run()
    return time.perf_counter() - begun


def run(
    data: Annotated[Path, typer.Option(help="Folder of photos and tar archives of photos.")],
    out: Annotated[Path, typer.Option(help="Where the page and its figures go.")] = Path("docs/results/decoding"),
    images: Annotated[int, typer.Option(min=1, help="Images of each set; enlarged ones are a tenth.")] = 1000,
    rounds: Annotated[int, typer.Option(min=1, help="Times that each way is timed.")] = 15,
) -> None:
    """Compare ways of decoding: cosines of features, answers, and times by image size.

    Photos of 300 pixels and more are cut into crops; smaller JPEGs are taken as they are.
    """
    if not data.is_dir():
        raise typer.BadParameter(f"there is no folder {data}", param_hint="--data")
    opened = [(item, decode_image(item)) for item in pictures(data)]
    large = [image for _, image in opened if min(image.size) >= LARGE]
    small = [item for item, image in opened if min(image.size) < LARGE and item.startswith(b"\xff\xd8")]
    if not large or not small:
        raise typer.BadParameter(f"{len(large)} photos of {LARGE} px and more and {len(small)} smaller JPEGs found")
    sets = {
        "small photos": small[:images],
        "crops of 300 to 1,400 px": crops(large, images),
        "crops enlarged to 2,560 px and more": crops(large, max(1, images // 10), enlarged=True, seed=1),
    }
    backbone = load_backbone(ModelSpec("compact"))
    names = imagenet_names()[::10]
    with torch.inference_mode():
        texts = backbone.text_features([f"A photo of a {name}." for name in names])
    record: dict[str, Any] = {
        "machine": {**machine(torch.get_num_threads()), "pillow": PIL.__version__},
        "classes": len(names),
        "size": backbone.preprocessing.size,
        "rounds": rounds,
        "agreement": {},
    }
    with Progress(console=Console(stderr=True), refresh_per_second=1, transient=True) as bar:
        task = bar.add_task("features", total=len(WAYS) * sum(map(len, sets.values())))
        for name, items in sets.items():
            found = {
                way: features(backbone, items, decode, lambda n: bar.advance(task, n)) for way, decode in WAYS.items()
            }
            record["agreement"][name] = {
                way: agreement(found["exact"], other, texts) for way, other in found.items() if way != "exact"
            }
        torch.set_num_threads(1)
        sharpest = max(large, key=lambda image: image.width * image.height)
        record["speed"] = [
            speed(sharpest, backbone.preprocessing, side=side, rounds=rounds)
            for side in bar.track(SIDES, description="times")
        ]
        some = sets["crops of 300 to 1,400 px"][:200]
        record["threads"] = threads_gain(some, backbone.preprocessing, rounds=min(rounds, 5))
    save_json(out / "summary.json", record)
    save_bytes(out / "README.md", page(record).encode())


if __name__ == "__main__":
    typer.run(run)

"""`python -m benchmarks.decoding`: what the fast way of decoding changes in features and answers, and what it saves.

The reference is the exact way, the models' published preprocessing. Three sets of JPEGs: small photos as they are,
crops of large ones, and crops enlarged to what a camera makes. Times are of one thread, ways in turn: ratios.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import PIL
import torch
import typer

from benchmarks.common.machine import machine
from benchmarks.common.options import Out, Rounds
from benchmarks.common.progress import quiet_bar
from benchmarks.common.record import save_bytes, save_json
from benchmarks.decoding.measure import LARGE, WAYS, agreement, crops, features, pictures, speed, threads_gain
from segp_cl.data.decoding import decode_image
from segp_cl.models.compact import imagenet_names
from segp_cl.models.load import load_backbone
from segp_cl.runtime.fast_decoding import SPARE
from segp_cl.types import ModelSpec

SIDES = (128, 320, 640, 1024, 1400, 2048, 4032)  # longer sides that are timed, at 4:3
app = typer.Typer(add_completion=False)


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


@app.command()
def main(
    data: Annotated[Path, typer.Option(help="Folder of photos and tar archives of photos.")],
    out: Out = Path("docs/results/decoding"),
    images: Annotated[int, typer.Option(min=1, help="Images of each set; enlarged ones are a tenth.")] = 1000,
    rounds: Rounds = 15,
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
    with quiet_bar() as bar:
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
    app()

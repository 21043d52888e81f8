"""Learn two tasks with `segp_cl` alone: scans of handwritten digits, first zero and one, then two and three.

    python examples/learn_a_task.py

No service, store or network is needed: the base model `compact` and the scans come with the installation. After each
task the script prints the accuracy over all digits learned so far, on scans that were not trained on.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image
from sklearn.datasets import load_digits

from segp_cl import (
    Classifier,
    LearnerConfig,
    ModelSpec,
    Preprocessing,
    Task,
    TaskClass,
    TensorImages,
    as_prompt,
    initial_state,
    learn_task,
    load_backbone,
    to_pixels,
)

DIGITS = ("zero", "one", "two", "three")
TASKS = (DIGITS[:2], DIGITS[2:])
TRAIN, HELD_OUT = slice(0, 30), slice(30, 50)  # of the scans of each digit


def main() -> None:
    """Learn one task after the other; each starts from the state that the one before led to."""
    backbone = load_backbone(ModelSpec("compact"))
    state = initial_state(backbone)
    for names in TASKS:
        classes = tuple(TaskClass(name, as_prompt("a scan of the handwritten digit {}.", name)) for name in names)
        learned = learn_task(
            state,
            Task(" and ".join(names), classes, scans(names, TRAIN, backbone.preprocessing)),
            config=LearnerConfig(epochs=3, align_steps=50),  # less than the defaults, to be done in seconds
            generator=torch.Generator().manual_seed(0),
            backbone=backbone,
        )
        state = learned.state
        held_out = scans(state.class_names, HELD_OUT, backbone.preprocessing)
        scores = Classifier(backbone, state).scores(held_out.pixels(range(len(held_out.labels))))
        right = scores.fused.argmax(dim=1) == torch.tensor(held_out.labels)
        print(f"{len(state.classes)} classes: {right.float().mean():.0%} of {len(right)} held-out scans are right")


def scans(names: Sequence[str], part: slice, preprocessing: Preprocessing) -> TensorImages:
    """Scans of the digits `names`, labelled by their position among them."""
    digits = load_digits()
    pixels, labels = [], []
    for label, name in enumerate(names):
        for scan in digits.images[digits.target == DIGITS.index(name)][part]:
            grey = Image.fromarray((255 - 15 * scan).astype("uint8"))  # 0 to 16 of ink, on white paper
            pixels.append(to_pixels(grey.convert("RGB"), preprocessing))
            labels.append(label)
    return TensorImages(torch.stack(pixels), labels)


if __name__ == "__main__":
    main()

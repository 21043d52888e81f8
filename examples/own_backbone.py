"""Learn with a base model of one's own: a `Backbone` out of two small torch modules, given to `learn_task`.

    python examples/own_backbone.py

The image tower turns pixels into raw features, the head projects them into the joint space, the text tower maps token
numbers into the same space. The weights here are random, to keep the example short; load your trained ones in their
place. `learn_task` adapts layers that it finds by type or name: 1x1 convolutions, attention K and V projections, and
feed-forward linears called `mlp.fc1` and `mlp.fc2` (among others). Each tower needs one of them at least.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from segp_cl import (
    Backbone,
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
)

SIZE, RAW, JOINT = 32, 48, 24
COLOURS = {"red": (200, 60, 60), "green": (60, 200, 60), "blue": (60, 60, 200), "yellow": (200, 200, 60)}
TASKS = (("red", "green"), ("blue", "yellow"))
GREY_LEVELS_OF_NOISE = 60


class ImageTower(nn.Module):
    """Pixels to raw features: two 1x1 convolutions over blurred pixels, then the mean over the image."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.AvgPool2d(4), nn.Conv2d(3, RAW, 1), nn.ReLU(), nn.Conv2d(RAW, RAW, 1))

    def forward(self, pixels: Tensor) -> Tensor:
        """r(x), of shape [batch, RAW]."""
        features: Tensor = self.layers(pixels).mean(dim=(2, 3))
        return features


class TextTower(nn.Module):
    """Letters to the joint space: the mean of their embeddings through one feed-forward block."""

    def __init__(self) -> None:
        super().__init__()
        self.letters = nn.Embedding(128, RAW)
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(RAW, RAW), "fc2": nn.Linear(RAW, JOINT)})

    def forward(self, tokens: Tensor) -> Tensor:
        """Text features of shape [prompts, JOINT], not yet normalised."""
        features: Tensor = self.mlp["fc2"](torch.relu(self.mlp["fc1"](self.letters(tokens).mean(dim=1))))
        return features


def tokenize(prompts: Sequence[str]) -> Tensor:
    """The ASCII codes of the letters; prompts are filled up with spaces to the longest one's length."""
    length = max(map(len, prompts))
    codes = [list(prompt.ljust(length).encode("ascii", errors="replace")) for prompt in prompts]
    return torch.tensor(codes, dtype=torch.long)


def own_backbone() -> Backbone:
    """The three parts as one base model. The digest names the weights: a state fits only the weights it was made on."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        image_tower, head, text_tower = ImageTower(), nn.Linear(RAW, JOINT, bias=False), TextTower()
    weights = hashlib.sha256()
    for part in (image_tower, head, text_tower):
        for tensor in part.state_dict().values():
            weights.update(tensor.numpy().tobytes())
    return Backbone(
        spec=ModelSpec("colours-and-letters"),
        weights_digest=weights.hexdigest(),
        image_tower=image_tower,
        head=head,
        text_tower=text_tower,
        tokenize=tokenize,
        logit_scale=20.0,
        preprocessing=Preprocessing(size=SIZE, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
        adapts_head=True,
    )


def main() -> None:
    """Learn two tasks of colours and print the accuracy on new pictures of all of them."""
    backbone = own_backbone()
    state = initial_state(backbone)
    for names in TASKS:
        classes = tuple(TaskClass(name, as_prompt("a picture of something {}.", name)) for name in names)
        state = learn_task(
            state,
            Task(" and ".join(names), classes, pictures(names, each=30, seed=1)),
            config=LearnerConfig(rank=4, align_steps=50),
            generator=torch.Generator().manual_seed(0),
            backbone=backbone,
        ).state
        held_out = pictures(state.class_names, each=10, seed=2)
        scores = Classifier(backbone, state).scores(held_out.pixels(range(len(held_out.labels))))
        right = scores.fused.argmax(dim=1) == torch.tensor(held_out.labels)
        print(f"{len(state.classes)} classes: {right.float().mean():.0%} of {len(right)} held-out pictures are right")


def pictures(names: Sequence[str], *, each: int, seed: int) -> TensorImages:
    """Noisy squares of the colours `names`, labelled by their position among them."""
    generator = torch.Generator().manual_seed(seed)
    labels = [label for label in range(len(names)) for _ in range(each)]
    colours = torch.tensor([COLOURS[names[label]] for label in labels]).view(-1, 3, 1, 1)
    noise = GREY_LEVELS_OF_NOISE * torch.randn(len(labels), 3, SIZE, SIZE, generator=generator)
    return TensorImages((colours + noise).clamp(0, 255).to(torch.uint8), labels)


if __name__ == "__main__":
    main()

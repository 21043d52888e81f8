"""Compiled towers beside eager ones: `python -m tests.unit.segp_cl.models.compiled MODEL BACKEND`, differences as JSON.

A program of its own: the run-time shape checks of the test suite would be compiled along.
"""

from __future__ import annotations

import json
import sys

import torch
from torch import Tensor, nn

from segp_cl.config import LearnerConfig
from segp_cl.data.preprocessing import Preprocessing
from segp_cl.models.backbone import Backbone
from segp_cl.models.load import load_backbone
from segp_cl.types import ModelSpec

PROMPTS = ["a cat", "a photo of a longer dog thing"]
ADAPTERS = {
    "hooks and parametrizations": LearnerConfig(rank=2),
    "hooks": LearnerConfig(rank=2, lora_attention=False),  # nothing but hooks tells the copy from its model
}


class Staged(nn.Module):
    """An image tower in three stages, the first of which is left alone."""

    def __init__(self) -> None:
        super().__init__()
        first, second = (nn.Conv2d(width, 8, 1, stride=4) for width in (3, 8))
        self.parts = nn.ModuleList([nn.Sequential(first, nn.ReLU()), second, nn.Flatten()])

    def stages(self) -> tuple[nn.Module, ...]:
        return tuple(self.parts)

    def forward(self, pixels: Tensor) -> Tensor:
        for stage in self.stages():
            pixels = stage(pixels)
        return pixels


def staged(model: Backbone) -> Backbone:
    """`model` behind a tower of stages."""
    torch.manual_seed(0)
    return Backbone(
        spec=model.spec,
        weights_digest="",
        image_tower=Staged(),
        head=nn.Linear(32, model.joint_dim),
        text_tower=model.text_tower,
        tokenize=model.tokenize,
        logit_scale=10.0,
        preprocessing=Preprocessing(size=32, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
        adapted_image_fraction=0.5,
    )


def outputs(model: Backbone, config: LearnerConfig) -> list[Tensor]:
    """Features of the model as it is, then the loss, every gradient of B, and the served copy's features."""
    pixels = torch.rand(5, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    found = [model.raw_features(pixels), model.text_features(PROMPTS)]
    student, generator = model.shared_copy(), torch.Generator().manual_seed(1)
    adapters = student.adapt(config, None, generator=generator)
    for b in adapters.trainable:
        b.data.normal_(generator=generator)
    stages = student.frozen_stages(adapters)
    for count in (5, 3):
        activations = student.stem(pixels[:count], stages)
        with student.each_weight_once():
            images = student.project(student.raw_from_stem(activations, stages))
            loss = (3 * images @ student.text_features(PROMPTS).T).square().sum()
            found += [loss, *torch.autograd.grad(loss, adapters.trainable)]
    served = model.with_lora(adapters.state())
    return [*found, served.raw_features(pixels), served.text_features(PROMPTS)]


def worst(eager: Backbone, compiled: Backbone, config: LearnerConfig) -> float:
    """The largest difference between the outputs of both, as a share of the largest value there is."""
    pairs = zip(outputs(eager, config), outputs(compiled, config), strict=True)
    return max(float((one - other).abs().max() / one.abs().max()) for one, other in pairs)


def main(model: str, backend: str) -> None:
    torch.set_num_threads(1)
    eager, compiled = (load_backbone(ModelSpec(model)) for _ in range(2))
    names = [name for name, _ in compiled.named_parameters()]
    compiled.compile_towers(backend=backend)
    said: dict[str, float] = {}
    if backend == "inductor":  # slow to compile, so in one small piece
        pixels = torch.rand(2, 3, 32, 32)
        said["image features"] = float((eager.raw_features(pixels) - compiled.raw_features(pixels)).abs().max())
    else:
        said = {name: worst(eager, compiled, config) for name, config in ADAPTERS.items()}
        in_stages = staged(load_backbone(ModelSpec(model)))
        before = in_stages.shared_copy()
        in_stages.compile_towers(backend=backend)
        said["stages"] = worst(before, in_stages, LearnerConfig(rank=2))
    compiled_graphs = int(torch._dynamo.utils.counters["stats"]["unique_graphs"])
    same_paths = names == [name for name, _ in compiled.named_parameters()]
    sys.stdout.write(json.dumps({"differences": said, "graphs": compiled_graphs, "same paths": same_paths}) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])

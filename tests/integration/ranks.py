"""One process of a group that learns together: `python -m tests.integration.ranks MODEL FOLDER RANK SIZE`."""

from __future__ import annotations

import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.optim.optimizer import Optimizer, register_optimizer_step_pre_hook

from segp_cl.config import LearnerConfig
from segp_cl.data.image_sets import TensorImages
from segp_cl.errors import InvalidTaskError
from segp_cl.learn.learner import initial_state, learn_task
from segp_cl.models.backbone import Backbone
from segp_cl.models.load import load_backbone
from segp_cl.types import LearnerState, ModelSpec, Task, TaskClass

BASE = LearnerConfig(
    rank=4,
    epochs=2,
    batch_size=7,
    k_seed=2,
    k_adv=1,
    optimizer="sgd",
    learning_rate=0.2,
    image_rate=1.0,
    fusion_holdout=0.0,
    tau_a=1.0,  # at 20 the loss of so small an update is rounding
    lambda_acgd=50.0,
)
CASES: dict[str, LearnerConfig] = {
    # 15 images: batches of 4 + 3 and of 1 + 0; anchors 3 + 2
    "segp": BASE.model_copy(update={"anchor_batch_size": 5}),
    "segp, one anchor a step": BASE.model_copy(update={"anchor_batch_size": 1, "old_classes_per_step": 2}),
    "naive": BASE.model_copy(update={"strategy": "naive", "optimizer": "adam", "learning_rate": 0.001}),
}


def task_of(*names: str, seed: int) -> Task:
    pixels = torch.randint(
        0, 256, (5 * len(names), 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed)
    )
    labels = [label for label in range(len(names)) for _ in range(5)]
    return Task("+".join(names), tuple(TaskClass(name, f"a {name}.") for name in names), TensorImages(pixels, labels))


def first_state(backbone: Backbone) -> LearnerState:
    """Three classes that were learned by this process alone: call it before the group is joined."""
    task = task_of("red", "green", "blue", seed=0)
    generator = torch.Generator().manual_seed(0)
    return learn_task(initial_state(backbone), task, config=BASE, generator=generator, backbone=backbone).state


def learn_cases(backbone: Backbone, old: LearnerState) -> dict[str, dict[str, Any]]:
    """Every case's gradients step by step, its reported losses and its trained factors."""
    return {name: _learn(backbone, old, config) for name, config in CASES.items()}


def _learn(backbone: Backbone, old: LearnerState, config: LearnerConfig) -> dict[str, Any]:
    gradients: list[list[Tensor]] = []

    def keep(optimizer: Optimizer, *_: object) -> None:
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        gradients.append([p.grad.clone() for p in parameters])

    handle = register_optimizer_step_pre_hook(keep)
    try:
        learned = learn_task(
            old,
            task_of("white", "grey", "black", seed=1),
            config=config,
            generator=torch.Generator().manual_seed(7),
            backbone=backbone,
        )
    finally:
        handle.remove()
    assert learned.state.lora is not None
    return {
        "gradients": gradients,
        "losses": [dict(epoch) for epoch in learned.report.losses],
        "factors": {key: factors.b for key, factors in learned.state.lora.factors.items()},
        "prototypes": learned.state.prototypes,
    }


def refusal(backbone: Backbone, rank: int) -> str:
    """What is said where every process brings a generator of another seed."""
    try:
        learn_task(
            initial_state(backbone),
            task_of("red", "green", seed=0),
            config=BASE,
            generator=torch.Generator().manual_seed(rank),
            backbone=backbone,
        )
    except InvalidTaskError as error:
        return str(error)
    return "nothing"


def main(model: str, folder: Path, rank: int, size: int) -> None:
    torch.set_num_threads(1)
    backbone = load_backbone(ModelSpec(model))
    old = first_state(backbone)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=size, timeout=timedelta(seconds=60)
    )
    torch.save({"cases": learn_cases(backbone, old), "refusal": refusal(backbone, rank)}, folder / f"{rank}.partial")
    (folder / f"{rank}.partial").rename(folder / f"{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))

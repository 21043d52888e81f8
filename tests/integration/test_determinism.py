"""The same data on the same parent with the same seed and libraries is the same version."""

from __future__ import annotations

from pathlib import Path

import torch

from model_store.store import Store, bootstrap
from model_store.types import Manifest, Provenance
from segp_cl.config import LearnerConfig
from segp_cl.data.image_sets import TensorImages
from segp_cl.learn.learner import initial_state, learn_task
from segp_cl.models.backbone import Backbone
from segp_cl.types import Task, TaskClass

CONFIG = LearnerConfig(rank=4, epochs=1, batch_size=4, k_seed=2, k_adv=2)


def learn_two_tasks(root: Path, backbone: Backbone, seed: int) -> Manifest:
    store = Store(root)
    parent = bootstrap(store, initial_state(backbone))
    for number, names in enumerate((("red", "green"), ("blue", "black"))):
        pixels = torch.randint(
            0, 256, (8, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(number)
        )
        task = Task(
            f"task {number}", tuple(TaskClass(name, f"a {name}.") for name in names), TensorImages(pixels, [0, 1] * 4)
        )
        learned = learn_task(
            store.open(parent), task, config=CONFIG, generator=torch.Generator().manual_seed(seed), backbone=backbone
        )
        provenance = Provenance(
            strategy="segp", settings=dict(learned.report.settings), seed=seed, job_id=f"job-{root.name}-{number}"
        )
        manifest = store.publish(learned.state, parent=parent, provenance=provenance)
        store.promote(manifest.version_id, expected=parent, who="test")
        parent = manifest.version_id
    return manifest


def test_the_same_lineage_has_the_same_content_digest(tmp_path: Path, tiny_backbone: Backbone) -> None:
    first = learn_two_tasks(tmp_path / "a", tiny_backbone, seed=7)
    second = learn_two_tasks(tmp_path / "b", tiny_backbone, seed=7)
    other = learn_two_tasks(tmp_path / "c", tiny_backbone, seed=8)
    assert first.version_id == second.version_id
    assert first.content_digest == second.content_digest != other.content_digest
    assert first.lora is not None
    assert any("in_proj_weight[k]" in name for name in first.lora.adapted)

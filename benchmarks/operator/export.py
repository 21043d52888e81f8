"""How far the answers of an exported version are from those of the service, on real images."""

from __future__ import annotations

import contextlib
import io
import json
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import torch
from starlette.testclient import TestClient

from app.main import create_app
from app.settings import Settings
from benchmarks.accuracy.datasets import LabelledImages, load_dataset, validation_slice
from benchmarks.accuracy.datasets.images import SelectedImages
from benchmarks.common.pages import number, table
from benchmarks.common.record import Record
from benchmarks.operator.part import Found, Inputs, Part
from model_store.first_version import make_first_version
from model_store.store import Store
from model_store.types import PreprocessingRecord, Provenance
from segp_cl.config import LearnerConfig
from segp_cl.data.decoding import read_pixels
from segp_cl.data.image_sets import TensorImages
from segp_cl.data.preprocessing import to_pixels
from segp_cl.learn.learner import learn_task
from segp_cl.models.backbone import Backbone
from segp_cl.models.load import load_backbone
from segp_cl.prompts import DEFAULT_TEMPLATE
from segp_cl.runtime.classifier import Classifier
from segp_cl.runtime.golden import record
from segp_cl.types import LearnerState, ModelSpec, Task, TaskClass

DATA: Final = "caltech101"
TASKS: Final = 2
BATCH: Final = 32
TEST_IMAGES_PER_CLASS: Final = 20


def measure(inputs: Inputs) -> Found:
    """Teach a store two tasks, export its version, and classify the same files by both."""
    classes, train_images = (3, 8) if inputs.quick else (10, 20)
    with tempfile.TemporaryDirectory() as folder:
        data = load_dataset(DATA, inputs.data, cache=inputs.cache or Path(folder) / "images")
        train, measured = data.train, data.test
        if inputs.validation:
            train, measured = validation_slice(data.train, 0.2, seed=0)
        order = data.class_order[: TASKS * classes]
        base = load_backbone(ModelSpec("compact"))
        store = Store(Path(folder) / "store")
        first = make_first_version(store, base)
        state = store.open(first)
        for task in range(TASKS):
            state = _teach(base, state, order[task * classes : (task + 1) * classes], data.classes, train, train_images)
        provenance = Provenance(who="benchmark", preprocessing=PreprocessingRecord.model_validate(base.preprocessing))
        golden = record(Classifier(base, state), base.preprocessing.size)
        version = store.publish(state, parent=first, provenance=provenance, golden=golden).version_id
        store.promote(version, expected=first, who="benchmark")
        files = _files(_some(measured, order, TEST_IMAGES_PER_CLASS))
        with _service(Path(folder)) as service:
            answer = service.get(f"/v1/versions/{version}/export", params={"format": "onnx"})
            answer.raise_for_status()
            served = _served(service, files)
        found = _exported(answer.content, files, base)
    differences = [abs(found[i][label] - p) for i, row in enumerate(served) for label, p in row.items()]
    same = sum(max(a, key=a.__getitem__) == max(b, key=b.__getitem__) for a, b in zip(found, served, strict=True))
    figures = {"export_difference": max(differences), "export_agreement": same / len(files)}
    details: Record = {
        "data": DATA,
        "model": "compact",
        "classes": len(order),
        "images": len(files),
        "bytes": len(answer.content),
        "largest_difference": figures["export_difference"],
        "mean_difference": sum(differences) / len(differences),
        "checked_difference": float(answer.headers["Keepsight-Difference"]),
    }
    return Found(figures, details)


def _some(images: LabelledImages, classes: Sequence[int], each: int) -> LabelledImages:
    """The first `each` images of some classes, with their labels."""
    chosen = {label: [i for i, found in enumerate(images.labels) if found == label][:each] for label in classes}
    return SelectedImages(images, [index for indices in chosen.values() for index in indices])


def _teach(
    base: Backbone,
    state: LearnerState,
    classes: Sequence[int],
    names: Sequence[str],
    images: LabelledImages,
    each: int,
) -> LearnerState:
    chosen = _some(images, classes, each)
    pixels = torch.stack([to_pixels(chosen.open(i), base.preprocessing) for i in range(len(chosen.labels))])
    task = Task(
        f"task {state.tasks + 1}",
        tuple(TaskClass(names[label], DEFAULT_TEMPLATE.format(names[label])) for label in classes),
        TensorImages(pixels, [list(classes).index(label) for label in chosen.labels]),
    )
    generator = torch.Generator().manual_seed(0)
    return learn_task(state, task, config=LearnerConfig(), generator=generator, backbone=base).state


def _files(images: LabelledImages) -> list[bytes]:
    """Images as files: both are given the same bytes."""
    files = []
    for index in range(len(images.labels)):
        buffer = io.BytesIO()
        images.open(index).save(buffer, "PNG")
        files.append(buffer.getvalue())
    return files


@contextlib.contextmanager
def _service(folder: Path) -> Iterator[Any]:
    settings = Settings(
        store=folder / "store",
        spool=folder / "spool",
        keys_file=folder / "keys.json",
        redis_url="redis://127.0.0.1:1/0",  # none: it answers without
        device="cpu",
    )
    with TestClient(create_app(settings), base_url="http://127.0.0.1:8000") as client:
        yield client


def _served(service: Any, files: Sequence[bytes]) -> list[dict[str, float]]:
    """Return the probability of every label, by image."""
    found = []
    for begin in range(0, len(files), BATCH):
        images = [("images", ("image.png", data)) for data in files[begin : begin + BATCH]]
        answer = service.post("/v1/classify", files=images, data={"top_k": "1000"})
        answer.raise_for_status()
        found += [{p["label"]: p["probability"] for p in row["predictions"]} for row in answer.json()["results"]]
    return found


def _exported(model: bytes, files: Sequence[bytes], base: Backbone) -> list[dict[str, float]]:
    import onnxruntime

    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    labels = json.loads(session.get_modelmeta().custom_metadata_map["labels"])
    found = []
    for begin in range(0, len(files), BATCH):
        pixels = torch.stack([read_pixels(data, base.preprocessing) for data in files[begin : begin + BATCH]])
        rows = session.run(["probabilities"], {"pixels": pixels.numpy()})[0]
        found += [dict(zip(labels, map(float, row), strict=True)) for row in rows]
    return found


def section(details: Record) -> str:
    """The details in words and a table."""
    rows = [
        [name.replace("_", " "), value if isinstance(value, str) else number(value)] for name, value in details.items()
    ]
    return (
        "A version of two tasks is exported by a running server, and the same image files are classified by the server "
        "and by the ONNX model in onnxruntime.\n\n" + table(["", "value"], rows, left=1)
    )


EXPORT: Final = Part(
    title="Exports",
    meanings={
        "export_difference": "largest difference of any probability between an exported version and the service",
        "export_agreement": "share of images for which both name the same class",
    },
    measure=measure,
    section=section,
)

"""A BentoML service with a CLIP of open_clip's: a JPEG comes in, the best labels go out. Runs in BentoML's own venv.

`POST /classify` takes a form with one file; adaptive batching joins those of several requests. Settings are JSON in
`PEER_SETTINGS`; see `contenders.py` beside this folder.
"""

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import bentoml
import open_clip
import torch
from PIL.Image import Image

SETTINGS: dict[str, Any] = json.loads(os.environ["PEER_SETTINGS"])


@bentoml.service(
    workers=SETTINGS["workers"],
    traffic={"timeout": 60, "max_concurrency": 256},
    logging={"access": {"enabled": False}},
    metrics={"enabled": SETTINGS["metrics"]},
)
class Clip:
    """Decodes, prepares, runs and scores a batch; images are decoded by a pool or one after another."""

    def __init__(self) -> None:
        torch.set_num_threads(SETTINGS["threads"])
        self.model, _, self.prepare = open_clip.create_model_and_transforms(
            SETTINGS["model"], pretrained=SETTINGS["checkpoint"]
        )
        self.model.eval()
        labels = json.loads(Path(SETTINGS["labels"]).read_text())
        self.names = labels["names"]
        self.text = torch.tensor(labels["text_features"])
        self.scale = self.model.logit_scale.exp().item()
        self.pool = ThreadPoolExecutor(SETTINGS["threads"]) if SETTINGS["decode"] == "pool" else None

    @bentoml.api(  # type: ignore[untyped-decorator]
        batchable=True, max_batch_size=SETTINGS["max_batch_size"], max_latency_ms=SETTINGS["max_latency_ms"]
    )
    def classify(self, images: list[Image]) -> list[list[dict[str, Any]]]:
        prepare = self.pool.map if self.pool is not None else map
        pixels = torch.stack(list(prepare(self.pixels, images)))
        with torch.inference_mode():
            image = torch.nn.functional.normalize(self.model.encode_image(pixels), dim=-1)
            scores = image @ self.text.T
            best = scores.topk(5)
            likely = torch.softmax(self.scale * scores, dim=-1).gather(1, best.indices)
        return [
            [
                {"label": self.names[i], "score": score, "probability": probability}
                for i, score, probability in zip(*row, strict=True)
            ]
            for row in zip(best.indices.tolist(), best.values.tolist(), likely.tolist(), strict=True)
        ]

    def pixels(self, image: Image) -> torch.Tensor:
        prepared: torch.Tensor = self.prepare(image.convert("RGB"))  # Pillow decodes here, not when it opens
        return prepared

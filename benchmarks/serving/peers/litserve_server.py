"""A LitServe server with a CLIP of open_clip's: a JPEG comes in, the best labels go out. Runs in LitServe's own venv.

The body of `POST /predict` is the file as it is: no form has to be parsed, and what goes to the worker is bytes.
Settings are JSON on the command line; see `contenders.py` beside this folder.
"""

import io
import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any

import litserve
import open_clip
import torch
from fastapi import Body
from PIL import Image

SETTINGS: dict[str, Any] = json.loads(os.environ.get("PEER_SETTINGS", "{}"))


class Clip(litserve.LitAPI):  # type: ignore[misc]
    """Decodes, prepares, runs and scores a batch; images are decoded in the worker, by a pool or one after another."""

    def setup(self, device: str) -> None:
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

    def decode_request(self, request: Annotated[bytes, Body(media_type="application/octet-stream")]) -> Any:
        if self.pool is not None:
            return self.pool.submit(self.pixels, request)
        return self.pixels(request)

    def batch(self, inputs: list[Any]) -> torch.Tensor:
        return torch.stack([each if isinstance(each, torch.Tensor) else each.result() for each in inputs])

    def predict(self, x: Any) -> Any:
        single = SETTINGS["max_batch_size"] == 1
        with torch.inference_mode():
            pixels = self.batch([x]) if single else x
            image = torch.nn.functional.normalize(self.model.encode_image(pixels), dim=-1)
            scores = image @ self.text.T
            best = scores.topk(5)
            likely = torch.softmax(self.scale * scores, dim=-1).gather(1, best.indices)
        answers = [
            [
                {"label": self.names[i], "score": score, "probability": probability}
                for i, score, probability in zip(*row, strict=True)
            ]
            for row in zip(best.indices.tolist(), best.values.tolist(), likely.tolist(), strict=True)
        ]
        return answers[0] if single else answers

    def unbatch(self, output: Any) -> Any:
        return output

    def encode_response(self, output: Any) -> dict[str, Any]:
        return {"predictions": output}

    def pixels(self, data: bytes) -> torch.Tensor:
        with Image.open(io.BytesIO(data)) as image:
            prepared: torch.Tensor = self.prepare(image.convert("RGB"))
        return prepared


if __name__ == "__main__":
    SETTINGS |= json.loads(sys.argv[1])
    os.environ["PEER_SETTINGS"] = sys.argv[1]  # the workers are new interpreters that import this module
    api = Clip(max_batch_size=SETTINGS["max_batch_size"], batch_timeout=SETTINGS["batch_timeout"])
    server = litserve.LitServer(
        api,
        accelerator="cpu",
        workers_per_device=SETTINGS["workers"],
        timeout=60,
        fast_queue=SETTINGS["fast_queue"],
    )
    server.run(
        host="127.0.0.1",
        port=SETTINGS["port"],
        num_api_servers=SETTINGS["api_servers"],
        generate_client_file=False,
        log_level="warning",
        access_log=False,
    )

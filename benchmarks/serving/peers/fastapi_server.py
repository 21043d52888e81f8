"""A plain FastAPI server with dynamic batching, on OpenVINO or ONNX Runtime: what one writes in an afternoon.

Run by an environment of its own: it knows nothing of Keepsight. The body of `POST /predict` is the file as it is.
Settings are JSON on the command line; see `contenders.py` beside this folder. Before it listens, it converts the image
tower of open_clip's model.
"""

import asyncio
import io
import json
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
import uvicorn
from fastapi import FastAPI, Request
from PIL import Image

Run = Callable[[np.ndarray], np.ndarray]


def openvino_run(visual: torch.nn.Module, size: int, settings: dict[str, Any]) -> Run:
    import openvino
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    with torch.no_grad():
        example = torch.zeros(2, 3, size, size)
        traced = torch.jit.trace(visual, example, check_trace=False)  # type: ignore[no-untyped-call]
        decoder = TorchScriptPythonDecoder(traced)
        frontend = FrontEndManager().load_by_framework("pytorch")
        model = frontend.convert(frontend.load(decoder))  # without `convert_model`, which reports home
    model.reshape([-1, 3, size, size])
    options = {
        "PERFORMANCE_HINT": settings["hint"],
        "INFERENCE_NUM_THREADS": settings["threads"],
        "INFERENCE_PRECISION_HINT": settings["precision"],
    }
    compiled = openvino.Core().compile_model(model, "CPU", options)
    return lambda pixels: compiled(pixels)[0]


def onnxruntime_run(visual: torch.nn.Module, size: int, settings: dict[str, Any]) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = settings["threads"]
    options.add_session_config_entry("session.intra_op.allow_spinning", "0" if settings["sleeping_threads"] else "1")
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "visual.onnx")
        torch.onnx.export(
            visual,
            (torch.zeros(2, 3, size, size),),
            path,
            input_names=["pixels"],
            output_names=["features"],
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=4096)},),
        )
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda pixels: session.run(None, {"pixels": pixels})[0]


class Batches:
    """Gathers what arrives within a few milliseconds, and runs it together on a thread."""

    def __init__(self, work: Callable[[list[Any]], list[Any]], most: int, wait_ms: float) -> None:
        self.work, self.most, self.wait_s = work, most, wait_ms / 1000
        self.queue: asyncio.Queue[tuple[Any, asyncio.Future[Any]]] = asyncio.Queue()
        self.thread = ThreadPoolExecutor(1)

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            taken = [await self.queue.get()]
            until = loop.time() + self.wait_s
            while len(taken) < self.most:
                try:
                    taken.append(self.queue.get_nowait())
                except asyncio.QueueEmpty:
                    left = until - loop.time()
                    if left <= 0:
                        break
                    try:
                        taken.append(await asyncio.wait_for(self.queue.get(), left))
                    except TimeoutError:
                        break
            try:
                found = await loop.run_in_executor(self.thread, self.work, [item for item, _ in taken])
            except Exception as error:
                for _, waiting in taken:
                    if not waiting.done():
                        waiting.set_exception(error)
                continue
            for (_, waiting), result in zip(taken, found, strict=True):
                if not waiting.done():
                    waiting.set_result(result)

    async def ask(self, item: Any) -> Any:
        waiting: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        await self.queue.put((item, waiting))
        return await waiting


def make_app(settings: dict[str, Any]) -> FastAPI:
    torch.set_num_threads(settings["threads"])
    model, _, prepare = open_clip.create_model_and_transforms(settings["model"], pretrained=settings["checkpoint"])
    model.eval()
    labels = json.loads(Path(settings["labels"]).read_text())
    names, text = labels["names"], np.array(labels["text_features"], dtype=np.float32).T
    scale = float(model.logit_scale.exp())
    size = model.visual.image_size
    size = size[0] if isinstance(size, tuple) else size
    make = {"openvino": openvino_run, "onnxruntime": onnxruntime_run}[settings["engine"]]
    run = make(model.visual, size, settings)
    del model
    decoders = ThreadPoolExecutor(settings["threads"])

    def pixels(data: bytes) -> np.ndarray:
        with Image.open(io.BytesIO(data)) as image:
            prepared: np.ndarray = prepare(image.convert("RGB")).numpy()
        return prepared

    def answer(batch: list[np.ndarray]) -> list[Any]:
        image = run(np.stack(batch))
        scores = image / np.linalg.norm(image, axis=1, keepdims=True) @ text
        odds = np.exp(scale * (scores - scores.max(axis=1, keepdims=True)))
        likely = odds / odds.sum(axis=1, keepdims=True)
        best = np.argsort(-scores, axis=1)[:, :5]
        return [
            [{"label": names[i], "score": float(row[i]), "probability": float(odd[i])} for i in five]
            for five, row, odd in zip(best, scores, likely, strict=True)
        ]

    batches = Batches(answer, settings["max_batch_size"], settings["max_wait_ms"])

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        running = asyncio.create_task(batches.run())
        yield
        running.cancel()

    app = FastAPI(lifespan=lifespan)

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.post("/predict")
    async def predict(request: Request) -> dict[str, Any]:
        data = await request.body()
        image = await asyncio.get_running_loop().run_in_executor(decoders, pixels, data)
        return {"predictions": await batches.ask(image)}

    return app


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    os.environ.setdefault("OMP_NUM_THREADS", str(given["threads"]))
    uvicorn.run(make_app(given), host="127.0.0.1", port=int(given["port"]), log_level="warning", access_log=False)

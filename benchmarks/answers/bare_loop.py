"""`python -m benchmarks.answers.bare_loop JSON`: the least that a task costs: decode its images, pass them once.

The passes are the server's own. Prints the seconds of each round as a JSON list.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from segp_cl.runtime.process import set_up_process

BATCH = 64


def main() -> None:
    """Read `folder` (a folder per class), `threads` and `rounds` from the argument."""
    set_up_process()
    import torch

    from segp_cl.data.image_sets import FolderImages
    from segp_cl.learn.learner import initial_state
    from segp_cl.models.load import load_backbone
    from segp_cl.runtime.classifier import Classifier
    from segp_cl.runtime.engines.torch_engine import TorchEngine
    from segp_cl.runtime.passes import PassSettings
    from segp_cl.types import ModelSpec

    asked = json.loads(sys.argv[1])
    torch.set_num_threads(asked["threads"])
    base = load_backbone(ModelSpec())
    passes = PassSettings.of(base.device, max_batch_size=BATCH, threads=asked["threads"])
    classifier = Classifier(base, initial_state(base), engine=TorchEngine(passes))
    size = base.preprocessing.size
    classifier.features(torch.zeros(BATCH, 3, size, size, dtype=torch.uint8))
    files = sorted(path for path in Path(asked["folder"]).glob("*/*") if path.is_file())
    seconds = []
    for _ in range(asked["rounds"]):
        images = FolderImages(files, [0] * len(files), base.preprocessing, threads=asked["threads"])
        begun = time.perf_counter()
        for at in range(0, len(files), BATCH):
            classifier.features(images.pixels(range(at, min(at + BATCH, len(files)))))
        seconds.append(time.perf_counter() - begun)
    print(json.dumps(seconds))


if __name__ == "__main__":
    main()

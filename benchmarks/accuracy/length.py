"""One row on a data set cut into so many tasks, in a process of its own, whose memory is then the row's alone.

`python -m benchmarks.accuracy.length JSON`, with a `Length` as JSON, prints a `LengthRun` in its last line.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from statistics import fmean
from typing import Any

from pydantic import BaseModel, ConfigDict

from segp_cl.runtime.process import peak_rss_bytes, set_up_process


class Length(BaseModel):
    """What to measure; the fields are the command line's."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: str
    data: Path
    row: str
    tasks: int
    model: str
    pretrained: str | None
    train_per_class: int | None
    test_per_class: int | None
    settings: dict[str, Any]
    threads: int


def measure(length: Length) -> str:
    """Learn all tasks with the first seed, and return the `LengthRun` as JSON."""
    # imported late: PyTorch must be loaded after the process is set up
    import torch

    from benchmarks.accuracy.datasets import load_dataset
    from benchmarks.accuracy.orders import METRICS, LengthRun
    from benchmarks.accuracy.rows import choose_rows, training_of
    from benchmarks.accuracy.runner import decode
    from benchmarks.accuracy.study import Options, Study
    from segp_cl.models.load import load_backbone
    from segp_cl.types import ModelSpec

    torch.set_num_threads(length.threads)
    row = choose_rows([length.row])[length.row]
    dataset = load_dataset(length.dataset, length.data, tasks=length.tasks)
    backbone = load_backbone(ModelSpec(length.model, length.pretrained))
    options = Options(
        seeds=(0,),
        train_per_class=length.train_per_class,
        test_per_class=length.test_per_class,
        settings=length.settings,
    )
    with tempfile.TemporaryDirectory() as work:
        study = Study(dataset, backbone, Path(work), options)
        for task in study.bench(0).tasks:
            decode(task.images)
        before, begun = peak_rss_bytes(), time.process_time()
        training = training_of(row.training)
        trained = study.train(training, study.config(training), 0)
        cpu_seconds = time.process_time() - begun
        summary = study.record(length.row, row, trained, 0).summary
    found: dict[str, Any] = {name: read(summary) for name, read in METRICS.items()}
    shares = [share for share in trained.misaligned if share is not None]
    run = LengthRun(
        row=length.row,
        tasks=length.tasks,
        seconds_per_task=fmean(trained.seconds),
        cpu_seconds_per_task=cpu_seconds / length.tasks,
        last_seconds=fmean(trained.seconds[-max(1, length.tasks // 10) :]),
        base_mib=before / 2**20,
        peak_mib=peak_rss_bytes() / 2**20,
        misaligned=fmean(shares) if shares else None,
        **found,
    )
    return run.model_dump_json()


def main() -> None:
    """Measure what the only argument says."""
    set_up_process()
    sys.stdout.write(measure(Length.model_validate_json(sys.argv[1])) + "\n")


if __name__ == "__main__":
    main()

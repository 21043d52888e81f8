"""One hyper-parameter with two values, from learning to the table and its files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.accuracy.benchmark import Listener, Options
from benchmarks.accuracy.datasets import Dataset
from benchmarks.accuracy.rows import InvalidSettingError, UnknownRowError
from benchmarks.accuracy.spread import Spread
from benchmarks.accuracy.sweep import PATHS, Sweep, SweepPoint, sweep, table, write_sweep
from segp_cl.config import LearnerConfig
from segp_cl.learn import learner
from segp_cl.models.backbone import Backbone
from segp_cl.types import Learned, LearnerState, Task

DEFAULT = LearnerConfig()
OPTIONS = Options(
    seeds=(0, 1),
    train_per_class=4,
    evaluated_on="validation",
    settings={"epochs": 1, "batch_size": 8, "k_adv": 1, "rank": 4},
)


class Counting(Listener):
    """Counts planned and finished tasks."""

    def __init__(self) -> None:
        self.planned, self.done = 0, 0

    def plan(self, units: int) -> None:
        self.planned += units

    def task_done(self) -> None:
        self.done += 1


def test_every_value_is_learned_once_for_each_seed_and_measured_by_every_path(
    toys: Dataset, tiny_backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[float] = []

    def learn_task(state: LearnerState, task: Task, *, config: LearnerConfig, **others: Any) -> Learned:
        used.append(config.lambda_tsgr)
        return learner.learn_task(state, task, config=config, **others)

    monkeypatch.setattr("benchmarks.accuracy.runner.learn_task", learn_task)
    listener = Counting()

    # the training of this row has a lambda_tsgr of its own, 0: the swept values go before it
    result = sweep(
        toys, tiny_backbone, "acgd", "lambda_tsgr", [0.0, 2.0], tmp_path / "work", OPTIONS, listener=listener
    )
    written = write_sweep(result, tmp_path / "sweeps")

    assert used == 2 * [0.0, 0.0, 2.0, 2.0]
    assert listener.planned == listener.done == 8
    assert [point.value for point in result.points] == [0.0, 2.0]
    assert (result.training, result.seeds, result.evaluated_on) == ("acgd", 2, "validation")
    for point in result.points:
        assert set(point.last) == set(point.average) == set(point.forgetting) == set(PATHS)
        assert point.seconds > 0
    assert (result.config["k_adv"], result.config["whiten"], result.config["k_seed"]) == (1, False, DEFAULT.k_seed)
    assert "lambda_tsgr" not in result.config
    assert result.name == "acgd-lambda_tsgr-rank=4-batch_size=8-epochs=1-k_adv=1"
    record = (tmp_path / "sweeps" / f"{result.name}.json").read_text()
    assert json.loads(record) == json.loads(result.model_dump_json())
    assert (tmp_path / "sweeps" / f"{result.name}.png").stat().st_size > 1000
    assert written == table(result)


def one_value(parameter: str, seeds: int = 1, **others: Any) -> Sweep:
    last = {"text": 0.5, "visual": 0.25, "fused": 0.75}
    forgetting = {"text": 0.1, "visual": 0.0, "fused": 0.05}
    point = SweepPoint(
        value=3,
        last={path: Spread(mean, 0.011) for path, mean in last.items()},
        average={path: Spread(mean, 0.011) for path, mean in last.items()},
        forgetting={path: Spread(mean, 0.02) for path, mean in forgetting.items()},
        seconds=12.4,
    )
    fixed: dict[str, Any] = {"train_per_class": None, "test_per_class": None, "config": {}, **others}
    return Sweep(
        dataset="toys",
        tasks=2,
        training="segp",
        parameter=parameter,
        seeds=seeds,
        evaluated_on="validation",
        points=(point,),
        **fixed,
    )


def test_a_table_is_in_percent_with_a_deviation_over_several_seeds() -> None:
    assert table(one_value("epochs")).splitlines() == [
        "| epochs | text | visual | fused | seconds |",
        "|---|---|---|---|---|",
        "| 3 | 50.0 / 10.0 | 25.0 / 0.0 | 75.0 / 5.0 | 12 |",
    ]
    assert "| 3 | 50.0 ± 1.1 / 10.0 ± 2.0 | 25.0 ± 1.1 / 0.0 ± 2.0 |" in table(one_value("epochs", seeds=2))


def test_the_page_shows_every_sweep_of_the_folder(tmp_path: Path) -> None:
    write_sweep(one_value("rank", train_per_class=20, config={"epochs": 2, "batch_size": DEFAULT.batch_size}), tmp_path)
    write_sweep(one_value("rank"), tmp_path)
    write_sweep(one_value("epochs"), tmp_path)

    page = (tmp_path / "README.md").read_text()
    assert page.startswith("# toys: sweeps\n")
    assert page.index("## segp-epochs\n") < page.index("## segp-rank-epochs=2\n") < page.index("## segp-rank\n")
    assert "![segp-rank-epochs=2](segp-rank-epochs=2.png)" in page
    assert "at most 20 training images a class, all a class measured on" in page
    assert page.count("`epochs=2`") == 1


def test_what_cannot_be_swept_is_refused_before_anything_is_learned(
    toys: Dataset, tiny_backbone: Backbone, tmp_path: Path
) -> None:
    with pytest.raises(UnknownRowError, match="no row 'nothing'"):
        sweep(toys, tiny_backbone, "nothing", "epochs", [1], tmp_path, OPTIONS)
    with pytest.raises(InvalidSettingError, match="no hyper-parameter 'epoch'"):
        sweep(toys, tiny_backbone, "segp", "epoch", [1], tmp_path, OPTIONS)
    with pytest.raises(InvalidSettingError, match="epochs cannot be 'many'"):
        sweep(toys, tiny_backbone, "segp", "epochs", [1, "many"], tmp_path, OPTIONS)
    assert not any(tmp_path.iterdir())

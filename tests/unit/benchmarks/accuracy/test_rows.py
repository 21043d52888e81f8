"""The rows of the table, and the configuration that each of them learns with."""

from __future__ import annotations

from typing import Literal

import pytest

from benchmarks.accuracy import rows
from benchmarks.accuracy.rows import (
    ROWS,
    TRAININGS,
    InvalidSettingError,
    Training,
    UnknownRowError,
    all_rows,
    choose_rows,
    settings_of,
    training_of,
)
from segp_cl.config import PRESETS


def test_every_row_reads_a_training_that_exists_and_can_be_configured() -> None:
    for row in ROWS.values():
        settings_of(TRAININGS[row.training], {}, {})
    assert set(TRAININGS) == {row.training for row in ROWS.values()}


def test_the_moving_ladder_trains_the_image_tower_and_is_the_ladder_otherwise() -> None:
    moving = [name for name in TRAININGS if name.endswith("-moving")]
    assert moving
    for name in moving:
        given, usual = (settings_of(TRAININGS[n], {}, {}) for n in (name, name.removesuffix("-moving")))
        assert given.image_rate is not None
        assert given.image_rate > 0
        assert given == usual.model_copy(update=PRESETS["moving"])


def test_every_other_registered_strategy_is_a_row_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "StrategyName", Literal["segp", "naive", "prototypes", "merging"])

    assert all_rows()["merging"].path == "fused"
    assert training_of(all_rows()["merging"].training).settings == {"strategy": "merging"}
    assert set(all_rows()) == {*ROWS, "merging"}


def test_rows_are_chosen_in_the_order_of_the_table() -> None:
    assert list(choose_rows(["segp", "naive"])) == ["naive", "segp"]
    assert choose_rows(None) == all_rows()


def test_an_unknown_row_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(UnknownRowError, match="no row 'segq'; there are zero-shot, prototypes"):
        choose_rows(["segp", "segq"])


def test_a_training_s_own_settings_lie_over_given_ones_and_tuned_ones_over_both() -> None:
    training = Training({"strategy": "naive", "epochs": 2}, tuned=True)
    given = {"epochs": 5, "rank": 4, "learning_rate": 0.1}

    config = settings_of(training, given, {"learning_rate": 0.3})

    assert (config.strategy, config.epochs, config.rank, config.learning_rate) == ("naive", 2, 4, 0.3)


def test_what_was_tuned_is_for_tuned_trainings_only() -> None:
    assert settings_of(Training(), {"epochs": 5}, {"epochs": 7}).epochs == 5


@pytest.mark.parametrize(
    ("given", "sentence"),
    [({"epoch": 5}, "^there is no hyper-parameter 'epoch'$"), ({"epochs": 0}, "^epochs cannot be 0: Input should be")],
)
def test_a_setting_that_cannot_be_is_one_sentence(given: dict[str, int], sentence: str) -> None:
    with pytest.raises(InvalidSettingError, match=sentence):
        settings_of(Training(), given, None)

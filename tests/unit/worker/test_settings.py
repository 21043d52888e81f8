from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from worker.__main__ import main
from worker.settings import WorkerSettings


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KEEPSIGHT_STORE", str(tmp_path))
    monkeypatch.setenv("KEEPSIGHT_HOLDOUT_FRACTION", "0.25")
    monkeypatch.setenv("KEEPSIGHT_NOT_THE_WORKERS", "1")
    settings = WorkerSettings()
    assert settings.store == tmp_path
    assert settings.holdout_fraction == 0.25


@pytest.mark.parametrize(
    "wrong",
    [{"holdout_fraction": 0.9}, {"device": "tpu"}, {"threads": 0}, {"max_attempts": 0}, {"holdout_min_images": 1}],
)
def test_impossible_settings_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        WorkerSettings.model_validate(wrong)


def test_a_heartbeat_slower_than_staleness_is_refused_with_what_to_set() -> None:
    with pytest.raises(ValidationError, match="set it to at least 30"):
        WorkerSettings(heartbeat_s=10, stale_after_s=15)


def test_settings_survive_the_way_to_a_jobs_process(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = WorkerSettings(threads=1, store=Path("elsewhere"))
    monkeypatch.setenv("KEEPSIGHT_STORE", "/another")
    assert WorkerSettings.model_validate_json(settings.model_dump_json()) == settings


def test_a_worker_with_wrong_settings_says_so_and_does_not_start(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KEEPSIGHT_DEVICE", "tpu")
    assert main([]) == 2
    assert "KEEPSIGHT_DEVICE" in capsys.readouterr().err


def test_help_is_given(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["--help"])
    assert exit_.value.code == 0
    assert "SIGTERM" in capsys.readouterr().out

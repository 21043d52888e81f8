"""What server and worker share is declared once, and means the same to both."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from app.settings import Settings
from exchange.settings import PREFIX, SharedSettings
from segp_cl.data.decoding import MAX_IMAGE_PIXELS
from segp_cl.types import ModelSpec
from worker.settings import WorkerSettings


@pytest.fixture(autouse=True)
def _nothing_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(PREFIX):
            monkeypatch.delenv(name)


def test_server_and_worker_read_the_same_from_one_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEEPSIGHT_STORE", "/somewhere")
    monkeypatch.setenv("KEEPSIGHT_SWAP_TIMEOUT_S", "7")
    monkeypatch.setenv("KEEPSIGHT_PORT", "9000")
    shared, server, worker = SharedSettings(), Settings(), WorkerSettings()
    assert shared.store == Path("/somewhere")
    assert shared.swap_timeout_s == 7
    for name in SharedSettings.model_fields:
        assert getattr(server, name) == getattr(worker, name) == getattr(shared, name), name


def test_what_is_set_to_nothing_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEEPSIGHT_PRETRAINED", "")
    monkeypatch.setenv("KEEPSIGHT_DEVICE", "")
    assert SharedSettings() == SharedSettings.model_validate({"pretrained": None, "device": "auto"})


def test_settings_do_not_change_once_they_are_read() -> None:
    settings = SharedSettings()
    with pytest.raises(ValidationError, match="frozen"):
        setattr(settings, "threads", 7)  # noqa: B010 - mypy knows that it is read-only


def test_passes_take_at_most_two_threads_unless_said_otherwise() -> None:
    assert 1 <= SharedSettings().threads <= 2


@pytest.mark.parametrize("device", ["auto", "cpu", "cuda", "cuda:1"])
def test_devices_that_can_be_named(device: str) -> None:
    assert SharedSettings.model_validate({"device": device}).device == device


@pytest.mark.parametrize(
    "wrong",
    [
        {"device": "tpu"},
        {"device": "cuda:"},
        {"device": "cpu "},
        {"threads": 0},
        {"max_image_pixels": 0},
        {"swap_timeout_s": 0},
        {"server_lost_after_s": -1},
        {"log_level": "LOUD"},
    ],
)
def test_values_that_cannot_work_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        SharedSettings.model_validate(wrong)


def test_the_base_model_is_named_as_the_method_does() -> None:
    settings = SharedSettings.model_validate({"model": "ViT-B-16", "pretrained": "openai"})
    assert settings.model_spec == ModelSpec("ViT-B-16", "openai")
    assert SharedSettings().model_spec == ModelSpec("compact")


def test_the_limit_of_pixels_is_the_method_s_own() -> None:
    assert Settings().max_image_pixels == MAX_IMAGE_PIXELS


def test_settings_are_read_without_loading_torch() -> None:
    program = "import sys, exchange.settings; exchange.settings.SharedSettings(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


@pytest.mark.parametrize("settings", [Settings, WorkerSettings])
@pytest.mark.parametrize("value", ["inf", "-inf", "nan", "1e999", "1e300", "9" * 400])
def test_no_number_is_without_an_end(settings: type[SharedSettings], value: str) -> None:
    numbers = [
        name
        for name, field in settings.model_fields.items()
        if {"int", "float"} & set(str(field.annotation).replace("<class '", "").replace("'>", "").split(" | "))
    ]
    assert len(numbers) > 10
    for name in numbers:
        with pytest.raises(ValidationError, match=name):
            settings.model_validate({name: value})

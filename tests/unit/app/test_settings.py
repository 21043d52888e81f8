from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from app.settings import Settings, is_loopback
from segp_cl.types import ModelSpec


def test_the_environment_is_read_under_one_prefix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEEPSIGHT_STORE", "/somewhere")
    monkeypatch.setenv("KEEPSIGHT_MODEL", "ViT-B-16")
    monkeypatch.setenv("KEEPSIGHT_PRETRAINED", "openai")
    monkeypatch.setenv("KEEPSIGHT_PORT", "9000")
    settings = Settings()
    assert (settings.store, settings.port) == (Path("/somewhere"), 9000)
    assert settings.model_spec == ModelSpec("ViT-B-16", "openai")


@pytest.mark.parametrize(
    "changed", [{"port": -1}, {"device": "tpu"}, {"device": "cuda:x"}, {"threads": 0}, {"queue_size": 0}]
)
def test_values_out_of_range_are_refused(changed: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Settings.model_validate(changed)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "localhost", "LOCALHOST", "::1", "[::1]", "a.localhost"])
def test_loopback_addresses(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "::", "10.0.0.1", "example.com", "", "127.0.0.1.example.com", "localhost.evil"]
)
def test_other_addresses(host: str) -> None:
    assert not is_loopback(host)

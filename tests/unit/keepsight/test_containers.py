"""The container files: accepted by Compose where it is installed, and of one piece with the settings everywhere."""

from __future__ import annotations

import re
import shutil
import subprocess
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[3]


def compose_command() -> list[str] | None:
    """`docker compose` or `docker-compose`, whichever is there."""
    for command in (["docker", "compose"], ["docker-compose"]):
        if shutil.which(command[0]):
            ran = subprocess.run([*command, "version"], capture_output=True, check=False)
            if ran.returncode == 0:
                return command
    return None


@pytest.fixture(scope="module")
def composed() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    return document


@pytest.mark.parametrize("files", [("docker-compose.yml",), ("docker-compose.yml", "docker-compose.gpu.yml")])
def test_compose_accepts_the_files(files: tuple[str, ...]) -> None:
    command = compose_command()
    if command is None:
        pytest.skip("neither `docker compose` nor `docker-compose` is installed")
    chosen = [part for name in files for part in ("--file", str(ROOT / name))]
    ran = subprocess.run([*command, *chosen, "config", "--quiet"], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr


def test_server_and_worker_are_one_image_over_the_same_places(composed: dict[str, Any]) -> None:
    api, worker = composed["services"]["api"], composed["services"]["worker"]
    assert api["image"] == worker["image"]
    assert {"store:/data/store", "spool:/data/spool"} <= set(api["volumes"]) & set(worker["volumes"])
    assert api["environment"]["KEEPSIGHT_REDIS_URL"] == worker["environment"]["KEEPSIGHT_REDIS_URL"]
    assert api["command"][-1] == "app"
    assert worker["command"][-1] == "worker"
    named = {volume.split(":")[0] for service in composed["services"].values() for volume in service["volumes"]}
    assert named == set(composed["volumes"])


def test_the_broker_keeps_its_data_and_is_not_published(composed: dict[str, Any]) -> None:
    redis = composed["services"]["redis"]
    assert redis["command"][1:3] == ["--appendonly", "yes"]
    assert "ports" not in redis


def test_the_gpu_file_changes_the_worker_only(composed: dict[str, Any]) -> None:
    gpu = yaml.safe_load((ROOT / "docker-compose.gpu.yml").read_text())
    assert set(gpu["services"]) == {"worker"}
    assert gpu["services"]["worker"]["deploy"]["resources"]["reservations"]["devices"][0]["capabilities"] == ["gpu"]


def test_the_image_runs_unprivileged_and_reports_its_health() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    assert re.search(r"^USER keepsight$", dockerfile, re.M)
    assert "/healthz" in dockerfile
    for name in re.findall(r"^COPY (.+) \S+$", dockerfile, re.M):
        assert all((ROOT / part).exists() for part in name.split()), name


def test_without_a_password_the_brokers_address_has_none() -> None:
    from redis import ConnectionPool

    kombu = import_module("kombu")  # untyped
    url = "redis://:@redis:6379/0"  # what an empty KEEPSIGHT_REDIS_PASSWORD makes of the setting
    pool = ConnectionPool.from_url(url)
    assert not pool.connection_kwargs.get("password")
    assert not kombu.Connection(url).password

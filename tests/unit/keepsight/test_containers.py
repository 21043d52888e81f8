"""The container files: complete, confined, and of one piece with the settings and with one another."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.unit.keepsight.dockerignore import IgnoreFile

ROOT = Path(__file__).parents[3]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
PINNED = re.compile(r"[a-z0-9./-]+:[A-Za-z0-9._-]+@sha256:[0-9a-f]{64}")
SHIPPED = (
    "app",
    "benchmarks/accuracy",
    "benchmarks/common",
    "exchange",
    "keepsight",
    "model_store",
    "segp_cl",
    "worker",
)
NOT_INSTALLED = {"keepsight/client/pyproject.toml", "keepsight/client/README.md", "keepsight/client/LICENSE"}


@pytest.fixture(scope="module")
def context() -> set[str]:
    return set(IgnoreFile((ROOT / ".dockerignore").read_text()).context(ROOT))


@pytest.fixture(scope="module")
def composed() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    return document


def shipped_files() -> set[str]:
    """What an installation has: the packages' files, and the module that makes `benchmarks` a package."""
    files = {"benchmarks/__init__.py"}
    for folder in SHIPPED:
        found = {path.relative_to(ROOT).as_posix() for path in (ROOT / folder).rglob("*") if path.is_file()}
        files |= {name for name in found if "__pycache__" not in name and ".egg-info/" not in name}
    return files - NOT_INSTALLED


def test_every_source_that_the_dockerfile_copies_is_sent_to_the_build(context: set[str]) -> None:
    copies = re.findall(r"^(?:COPY|ADD) +((?:--\S+ +)*)(.+) +\S+$", DOCKERFILE.replace("\\\n", " "), re.M)
    sources = [source for flags, named in copies if "--from" not in flags for source in named.split()]
    assert sources
    for source in sources:
        folder = "" if source == "." else f"{source.strip('/')}/"
        assert source in context or any(path.startswith(folder) for path in context), f"{source} is not sent"


def test_the_build_is_sent_what_is_installed_and_little_else(context: set[str]) -> None:
    assert shipped_files() - context == set()
    assert context - shipped_files() - NOT_INSTALLED == {"LICENSE", "README.md", "pyproject.toml", "requirements.lock"}


@pytest.mark.slow
def test_what_the_build_is_sent_can_be_installed_and_run(context: set[str], tmp_path: Path) -> None:
    installing = re.search(r"^RUN pip install (.*--no-deps.*) && pip check$", DOCKERFILE, re.M)
    assert installing is not None
    tree, target = tmp_path / "tree", tmp_path / "installed"
    for name in context:
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, tree / name)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--target", str(target)]
    subprocess.run([*pip, *installing[1].split()], cwd=tree, check=True)
    found = {path.relative_to(target).as_posix() for path in target.rglob("*") if path.is_file()}
    assert shipped_files() - found == set()
    modules = ("app.main", "worker.celery_app", "worker.child", "keepsight.cli.main", "benchmarks.accuracy.cli")
    code = f"import {', '.join(modules)}; print(app.__file__, keepsight.client.__file__)"
    environment = {**os.environ, "PYTHONPATH": str(target)}
    ran = subprocess.run(
        [sys.executable, "-P", "-c", code], cwd=tmp_path, env=environment, check=True, capture_output=True, text=True
    )
    assert ran.stdout.split() == [f"{target}/app/__init__.py", f"{target}/keepsight/client/__init__.py"]


def test_images_are_fixed_by_their_digests(composed: dict[str, Any]) -> None:
    assert re.findall(r"^FROM (.+)$", DOCKERFILE, re.M) == ["${PYTHON_IMAGE}"]
    base = re.search(r"^ARG PYTHON_IMAGE=(.+)$", DOCKERFILE, re.M)
    assert base is not None
    foreign = [service["image"] for service in composed["services"].values() if "build" not in service]
    assert [image for image in [base[1], *foreign] if not PINNED.fullmatch(image)] == []


def test_the_image_runs_unprivileged_and_reports_its_health() -> None:
    assert re.findall(r"^(RUN|USER) (?=keepsight|pip)", DOCKERFILE, re.M)[-1] == "USER"
    assert re.search(r"^USER keepsight$", DOCKERFILE, re.M)
    assert "/healthz" in DOCKERFILE


def test_every_service_is_confined(composed: dict[str, Any]) -> None:
    for name, service in composed["services"].items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert "privileged" not in service, name
        assert service["mem_limit"], name
        assert service["pids_limit"] > 0, name


def test_where_the_server_writes_is_a_volume_or_in_memory(composed: dict[str, Any]) -> None:
    api = composed["services"]["api"]
    mounts = {volume.split(":")[1] for volume in api["volumes"]}
    named = dict(re.findall(r"(KEEPSIGHT_(?:STORE|SPOOL|KEYS_FILE))=(\S+)", DOCKERFILE))
    assert {named["KEEPSIGHT_STORE"], named["KEEPSIGHT_SPOOL"], str(Path(named["KEEPSIGHT_KEYS_FILE"]).parent)} < mounts
    made = re.search(r"install -d -o keepsight -g keepsight (.+)$", DOCKERFILE, re.M)
    assert made is not None
    assert set(made[1].split()) == mounts  # a named volume takes its owner from the folder in the image
    for name in ("api", "worker"):
        assert [entry.split(":")[0] for entry in composed["services"][name]["tmpfs"]] == ["/tmp"]


def test_server_and_worker_are_one_image_over_the_same_places(composed: dict[str, Any]) -> None:
    api, worker = composed["services"]["api"], composed["services"]["worker"]
    assert api["image"] == worker["image"]
    assert {"store:/data/store", "spool:/data/spool"} <= set(api["volumes"]) & set(worker["volumes"])
    assert api["environment"]["KEEPSIGHT_REDIS_URL"] == worker["environment"]["KEEPSIGHT_REDIS_URL"]
    assert api["command"][-1] == "app"
    assert worker["command"][-1] == "worker"
    named = {volume.split(":")[0] for service in composed["services"].values() for volume in service["volumes"]}
    assert named == set(composed["volumes"])


def test_the_worker_cannot_see_the_keys(composed: dict[str, Any]) -> None:
    assert [volume for volume in composed["services"]["worker"]["volumes"] if volume.startswith("keys:")] == []


def test_the_broker_keeps_its_data_and_is_not_published(composed: dict[str, Any]) -> None:
    redis = composed["services"]["redis"]
    assert redis["command"][1:3] == ["--appendonly", "yes"]
    assert "ports" not in redis


def test_the_gpu_file_changes_the_worker_only() -> None:
    gpu = yaml.safe_load((ROOT / "docker-compose.gpu.yml").read_text())
    assert set(gpu["services"]) == {"worker"}
    assert gpu["services"]["worker"]["deploy"]["resources"]["reservations"]["devices"][0]["capabilities"] == ["gpu"]


def test_without_a_password_the_brokers_address_has_none() -> None:
    from redis import ConnectionPool

    kombu = import_module("kombu")  # untyped
    url = "redis://:@redis:6379/0"  # what an empty KEEPSIGHT_REDIS_PASSWORD makes of the setting
    pool = ConnectionPool.from_url(url)
    assert not pool.connection_kwargs.get("password")
    assert not kombu.Connection(url).password


def pin_images(tmp_path: Path, docker: str | None) -> subprocess.CompletedProcess[str]:
    """Run scripts/pin-images on copies of the container files, with a `docker` that does what it is given."""
    (tmp_path / "scripts").mkdir()
    for name in ("scripts/_env", "scripts/pin-images", "Dockerfile", "docker-compose.yml"):
        shutil.copy(ROOT / name, tmp_path / name)
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("bash", "dirname", "env", "grep", "sed", "sort"):
        (programs / name).symlink_to(shutil.which(name) or name)
    if docker is not None:
        (programs / "docker").write_text(f"#!/bin/bash\n{docker}\n")
        (programs / "docker").chmod(0o755)
    return subprocess.run(
        [str(tmp_path / "scripts" / "pin-images")],
        env={"PATH": str(programs)}, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_pinning_writes_the_digest_of_every_tag_into_the_container_files(tmp_path: Path) -> None:
    digests = {"python": "a" * 64, "redis": "b" * 64}
    cases = " ".join(f"*inspect*{name}:*) echo sha256:{digest};;" for name, digest in digests.items())
    ran = pin_images(tmp_path, f'case "$*" in *@*) exit 1;; {cases} esac')
    assert ran.returncode == 0, ran.stderr
    for name in ("Dockerfile", "docker-compose.yml"):
        old, new = (ROOT / name).read_text(), (tmp_path / name).read_text()
        expected = PINNED.sub(lambda image: re.sub(r"[0-9a-f]{64}", digests[image[0].partition(":")[0]], image[0]), old)
        assert new == expected != old


@pytest.mark.parametrize(
    ("docker", "message"),
    [
        (None, "docker buildx is needed"),
        ('[ "$2" = version ]', "could not be looked up"),
        ("echo unknown", "expected the digest of"),
    ],
)
def test_pinning_that_fails_says_why_and_changes_nothing(tmp_path: Path, docker: str | None, message: str) -> None:
    ran = pin_images(tmp_path, docker)
    assert ran.returncode == 1
    assert message in ran.stderr
    for name in ("Dockerfile", "docker-compose.yml"):
        assert (tmp_path / name).read_text() == (ROOT / name).read_text()

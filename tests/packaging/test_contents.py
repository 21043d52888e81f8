"""What is shipped: everything that runs, once, and no test."""

from __future__ import annotations

import tarfile
from email import message_from_bytes
from email.message import Message
from pathlib import Path
from zipfile import ZipFile

import pytest
from packaging.metadata import Metadata

from tests.packaging.built import Distributions

NAMES = ("keepsight", "keepsight-client")
SHIPPED = (
    "app",
    "exchange",
    "keepsight",
    "model_store",
    "segp_cl",
    "worker",
    "benchmarks/accuracy",
    "benchmarks/common",
)
CLIENT = "keepsight/client/"
PROJECT_FILES = {f"{CLIENT}{name}" for name in ("LICENSE", "README.md", "pyproject.toml")}


def files_of_wheel(wheel: Path) -> set[str]:
    with ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if ".dist-info/" not in name}


def metadata_of_wheel(wheel: Path) -> bytes:
    with ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        return archive.read(name)


def files_of_sdist(sdist: Path) -> set[str]:
    with tarfile.open(sdist) as archive:
        return {member.name.partition("/")[2] for member in archive.getmembers() if member.isfile() or member.issym()}


def headers(wheel: Path) -> Message:
    return message_from_bytes(metadata_of_wheel(wheel))


def test_the_wheels_hold_every_file_that_is_run_each_once(distributions: Distributions) -> None:
    runs = {name for name in distributions.tracked if name.startswith(tuple(f"{folder}/" for folder in SHIPPED))}
    runs |= {"benchmarks/__init__.py"}
    runs -= PROJECT_FILES
    of_the_client = {name for name in runs if name.startswith(CLIENT)}
    assert files_of_wheel(distributions.wheel("keepsight-client")) == of_the_client
    assert files_of_wheel(distributions.wheel("keepsight")) == runs - of_the_client


def test_the_source_distributions_hold_every_tracked_file(distributions: Distributions) -> None:
    assert distributions.tracked <= files_of_sdist(distributions.sdist("keepsight"))
    of_the_client = {name.removeprefix(CLIENT) for name in distributions.tracked if name.startswith(CLIENT)}
    assert of_the_client <= files_of_sdist(distributions.sdist("keepsight-client"))


@pytest.mark.parametrize("marker", ["keepsight/py.typed", "keepsight/client/py.typed", "segp_cl/py.typed"])
def test_type_checkers_are_told_that_there_are_types(distributions: Distributions, marker: str) -> None:
    assert marker in {file for name in NAMES for file in files_of_wheel(distributions.wheel(name))}


@pytest.mark.parametrize("name", NAMES)
def test_the_metadata_is_valid(distributions: Distributions, name: str) -> None:
    metadata = Metadata.from_email(metadata_of_wheel(distributions.wheel(name)), validate=True)
    assert metadata.name == name
    assert metadata.description
    assert metadata.license_files == ["LICENSE"]


def test_the_service_requires_the_client_of_its_own_version(distributions: Distributions) -> None:
    service, client = (headers(distributions.wheel(name)) for name in NAMES)
    assert service["Version"] == client["Version"]
    assert f"keepsight-client=={client['Version']}" in service.get_all("Requires-Dist", [])


def test_the_client_requires_an_http_library_and_no_more(distributions: Distributions) -> None:
    required = headers(distributions.wheel("keepsight-client")).get_all("Requires-Dist", [])
    assert {requirement.partition(">=")[0] for requirement in required} == {"anyio", "httpx"}

"""requirements.lock, which the image is installed from: complete, with nothing to spare, and in the tested versions."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[3]
LOCK = (ROOT / "requirements.lock").read_text()
OWN = {"keepsight", "keepsight-client"}
IMAGE = {
    "platform_machine": "x86_64",
    "python_full_version": "3.11.16",
    "python_version": "3.11",
    "sys_platform": "linux",
}


def pins(text: str) -> dict[str, str]:
    found = re.findall(r"^([A-Za-z0-9._-]+)==(\S+)", text, re.M)
    return {canonicalize_name(name): version for name, version in found}


@pytest.fixture(scope="module")
def declared() -> list[Requirement]:
    """What our distributions need of others in the image: with the engine for CPUs."""
    lines: list[str] = []
    for name in ("pyproject.toml", "keepsight/client/pyproject.toml"):
        project = tomllib.loads((ROOT / name).read_text())["project"]
        lines += project["dependencies"] + project.get("optional-dependencies", {}).get("openvino", [])
    return [each for each in map(Requirement, lines) if canonicalize_name(each.name) not in OWN]


def closure(requirements: list[Requirement]) -> set[str]:
    """The packages that these need in the image, and those need, and so on."""
    done: set[tuple[str, str]] = set()
    waiting = list(requirements)
    while waiting:
        requirement = waiting.pop()
        for extra in ("", *requirement.extras):
            if (entry := (canonicalize_name(requirement.name), extra)) in done:
                continue
            done.add(entry)
            for needed in map(Requirement, requires(entry[0]) or ()):
                if needed.marker is None or needed.marker.evaluate({**IMAGE, "extra": extra}):
                    waiting.append(needed)
    return {name for name, _ in done}


def test_all_that_the_image_needs_is_locked_and_nothing_else(declared: list[Requirement]) -> None:
    assert set(pins(LOCK)) == closure(declared), "run scripts/lock"


def test_locked_versions_are_those_that_are_tested(declared: list[Requirement]) -> None:
    locked, tested = pins(LOCK), pins((ROOT / "constraints.txt").read_text())
    assert {name: version for name, version in locked.items() if tested.get(name) != version} == {}
    for requirement in declared:
        assert requirement.specifier.contains(locked[canonicalize_name(requirement.name)]), requirement


def test_every_package_has_hashes_and_no_address() -> None:
    entries = re.split(r"\n(?=\S)", LOCK.strip())
    assert len(entries) == len(pins(LOCK))
    for entry in entries:
        assert re.fullmatch(r"\S+==\S+(?: \\\n    --hash=sha256:[0-9a-f]{64})+", entry), entry.partition("\n")[0]


def test_the_image_is_installed_from_it_by_hash() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    assert re.search(r"^RUN pip install .*--require-hashes --requirement requirements\.lock$", dockerfile, re.M)
    assert "setuptools" in pins(LOCK)  # --no-build-isolation builds with it

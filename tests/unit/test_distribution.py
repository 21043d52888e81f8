"""What the two distributions own and say of themselves.

The top-level names are generic (docs/adr/0001): nobody else may own them, and there are no others.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping
from importlib.metadata import Distribution, distributions, packages_distributions, requires, version
from pathlib import Path

import pytest

import keepsight
import keepsight.client

OURS = ("app", "benchmarks", "exchange", "keepsight", "model_store", "segp_cl", "worker")
OWNERS = {name: {"keepsight"} for name in OURS} | {"keepsight": {"keepsight", "keepsight-client"}}
ROOT = Path(__file__).resolve().parents[2]


def owners(installed: Iterable[Distribution]) -> dict[str, set[str]]:
    """Distributions that install a top-level package or module, by its name, going by what they list."""
    found: dict[str, set[str]] = {}
    for distribution in installed:
        names = {file.parts[0].removesuffix(".py") for file in distribution.files or [] if file.parts}
        names |= set((distribution.read_text("top_level.txt") or "").split())
        for name in names:
            found.setdefault(name, set()).add(distribution.metadata["Name"])
    return found


@pytest.fixture(scope="module")
def listed() -> dict[str, set[str]]:
    """Owners of what is installed, read once: there are thousands of files."""
    return owners(distributions())


@pytest.fixture(scope="module")
def imported() -> Mapping[str, list[str]]:
    return packages_distributions()


@pytest.mark.parametrize("name", OURS)
def test_no_other_distribution_owns_the_name(
    name: str, listed: dict[str, set[str]], imported: Mapping[str, list[str]]
) -> None:
    assert listed[name] == OWNERS[name]
    assert set(imported[name]) == OWNERS[name]


@pytest.mark.parametrize("name", OURS)
def test_what_is_imported_is_this_repositorys(name: str) -> None:
    module = importlib.import_module(name)
    assert [Path(folder).resolve() for folder in module.__path__] == [ROOT / name]


def test_the_distribution_ships_these_packages_and_no_other(imported: Mapping[str, list[str]]) -> None:
    shipped = {name for name, owned_by in imported.items() if "keepsight" in owned_by}
    assert {name for name in shipped if not name.startswith("__editable__")} == set(OURS)


def test_the_client_is_imported_from_beside_the_service() -> None:
    assert [Path(folder).resolve() for folder in keepsight.client.__path__] == [ROOT / "keepsight" / "client"]


def test_everything_says_one_version() -> None:
    said = keepsight.client.__version__
    assert keepsight.__version__ == said
    assert {name: version(name) for name in ("keepsight", "keepsight-client")} == {
        "keepsight": said,
        "keepsight-client": said,
    }
    assert f"keepsight-client=={said}" in (requires("keepsight") or [])
    assert f"\n## [{said}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_an_owner_is_found_by_its_files_alone(tmp_path: Path) -> None:
    info = tmp_path / "other-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1.0\n")
    (info / "RECORD").write_text("worker/__init__.py,,\nother-1.0.dist-info/METADATA,,\nother-1.0.dist-info/RECORD,,\n")
    found = owners(distributions(path=[str(tmp_path)]))
    assert found["worker"] == {"other"}
    assert "app" not in found

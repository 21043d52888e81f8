"""`scripts/release` refuses what does not hold together, and tags nothing unless it is told to."""

from __future__ import annotations

import importlib.util
import io
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from zipfile import ZipFile

import pytest

from tests.packaging.built import ROOT, clean_environment

CLIENT = "keepsight/client"
CHANGELOG = "# Changes\n\n## [Unreleased]\n\n## [1.2.3] - 2026-11-26\n\n- Something.\n"
PYPROJECT = """
[build-system]
requires = ["setuptools>=77"]
build-backend = "setuptools.build_meta"
[project]
name = "{name}"
version = "1.2.3"
description = "A small one."
dependencies = [{requires}]
[tool.setuptools]
py-modules = ["{module}"]
"""
A_TEST = """
import os
def test_the_built_files_are_tested():
    assert len(os.listdir(os.environ["KEEPSIGHT_DISTRIBUTIONS"])) == 4
"""


class Checkout:
    """A small project with the same parts, committed."""

    def __init__(self, root: Path) -> None:
        self.root = root
        shutil.copytree(ROOT / "scripts", root / "scripts")
        self.write(".gitignore", "dist/\n__pycache__/\n*.egg-info/\n.pytest_cache/\n")
        self.write(f"{CLIENT}/__init__.py", '"""Client."""\n\n__version__ = "1.2.3"\n')
        self.write(f"{CLIENT}/pyproject.toml", PYPROJECT.format(name="keepsight-client", module="one", requires=""))
        self.write(f"{CLIENT}/one.py", "")
        pin = '"keepsight-client==1.2.3"'
        self.write("pyproject.toml", PYPROJECT.format(name="keepsight", module="two", requires=pin))
        self.write("two.py", "")
        self.write("CHANGELOG.md", CHANGELOG)
        self.write("tests/packaging/test_small.py", A_TEST)
        self.git("init", "--quiet")
        self.commit()

    def write(self, name: str, text: str) -> None:
        (self.root / name).parent.mkdir(parents=True, exist_ok=True)
        (self.root / name).write_text(text)

    def git(self, *arguments: str) -> str:
        who = ("-c", "user.name=test", "-c", "user.email=test@localhost")
        return subprocess.run(
            ["git", *who, *arguments], cwd=self.root, capture_output=True, text=True, check=True
        ).stdout

    def commit(self) -> None:
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", "A state")

    def release(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        names = {
            f"GIT_{role}_{what}": "test@localhost" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")
        }
        return subprocess.run(
            [sys.executable, "-P", str(self.root / "scripts" / "_release.py"), *arguments],
            env={**clean_environment(), **names}, capture_output=True, text=True, check=False,
        )  # fmt: skip

    def refusal(self) -> str:
        ran = self.release("--tag")
        assert ran.returncode == 1, ran.stdout
        assert not (self.root / "dist").exists()
        assert ran.stderr.startswith("keepsight: ")
        return ran.stderr.removeprefix("keepsight: ").rstrip()


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


def test_changes_that_are_not_committed_are_refused(checkout: Checkout) -> None:
    checkout.write("CHANGELOG.md", CHANGELOG + "- More.\n")
    checkout.write("new.py", "")
    assert checkout.refusal() == "the work tree is not clean; commit or remove: CHANGELOG.md, new.py"


def test_a_version_that_is_tagged_already_is_refused(checkout: Checkout) -> None:
    checkout.git("tag", "v1.2.3")
    assert checkout.refusal() == "v1.2.3 is tagged already; raise __version__ in keepsight/client/__init__.py"


def test_a_service_that_requires_another_client_is_refused(checkout: Checkout) -> None:
    checkout.write(f"{CLIENT}/__init__.py", '__version__ = "1.2.4"\n')
    checkout.commit()
    assert checkout.refusal() == "pyproject.toml does not require keepsight-client==1.2.4"


@pytest.mark.parametrize(
    ("changelog", "sentence"),
    [
        (
            CHANGELOG.replace("[Unreleased]\n", "[Unreleased]\n\n- Not said yet.\n"),
            "CHANGELOG.md has changes under [Unreleased]; move them under [1.2.3]",
        ),
        (CHANGELOG.replace(" - 2026-11-26", ""), "CHANGELOG.md has no newest section '## [1.2.3] - YYYY-MM-DD'"),
        (
            CHANGELOG.replace("## [1.2.3]", "## [1.3.0] - 2026-11-27\n\n## [1.2.3]"),
            "CHANGELOG.md has no newest section '## [1.2.3] - YYYY-MM-DD'",
        ),
        ("# Changes\n", "CHANGELOG.md has no newest section '## [1.2.3] - YYYY-MM-DD'"),
    ],
    ids=["waiting changes", "no date", "a newer version", "nothing"],
)
def test_a_changelog_that_does_not_tell_of_the_version_is_refused(
    checkout: Checkout, changelog: str, sentence: str
) -> None:
    checkout.write("CHANGELOG.md", changelog)
    checkout.commit()
    assert checkout.refusal() == sentence


def test_built_files_are_refused_that_an_index_would_refuse(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("_release", ROOT / "scripts" / "_release.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    right = {
        name: f"Metadata-Version: 2.4\nName: {name}\nVersion: 1.2.3\n" for name in ("keepsight", "keepsight-client")
    }

    def check(metadata: dict[str, str]) -> None:
        for name, text in metadata.items():
            stem = f"{name.replace('-', '_')}-1.2.3"
            with ZipFile(tmp_path / f"{stem}-py3-none-any.whl", "w") as wheel:
                wheel.writestr(f"{stem}.dist-info/METADATA", text)
            with tarfile.open(tmp_path / f"{stem}.tar.gz", "w:gz") as sdist:
                member = tarfile.TarInfo(f"{stem}/PKG-INFO")
                member.size = len(text)
                sdist.addfile(member, io.BytesIO(text.encode()))
        module.check_built(tmp_path, "1.2.3")

    check(right)
    with pytest.raises(module.RefusedError, match=r"^keepsight-1.2.3.tar.gz: .*description-content-type"):
        check({**right, "keepsight": right["keepsight"] + "Description-Content-Type: text/nonsense\n"})
    with pytest.raises(module.RefusedError, match=r"^keepsight_client-1.2.3.tar.gz says that it is other 1.2.3$"):
        check({**right, "keepsight-client": right["keepsight-client"].replace("keepsight-client", "other")})
    check(right)
    (tmp_path / "keepsight_client-1.2.3-py3-none-any.whl").unlink()
    with pytest.raises(module.RefusedError, match=r"^dist/ lacks keepsight_client-1.2.3-py3-none-any.whl$"):
        module.check_built(tmp_path, "1.2.3")


def test_built_files_that_fail_the_packaging_tests_are_not_tagged(checkout: Checkout) -> None:
    checkout.write("tests/packaging/test_small.py", A_TEST.replace("== 4", "== 5"))
    checkout.commit()
    ran = checkout.release("--tag")
    assert ran.returncode == 1
    assert "keepsight: the packaging tests failed" in ran.stderr
    assert checkout.git("tag") == ""


def test_a_release_is_built_and_tested_and_tagged_only_if_asked(checkout: Checkout) -> None:
    untagged = checkout.release()
    assert untagged.returncode == 0, untagged.stderr
    assert checkout.git("tag") == ""
    tagged = checkout.release("--tag")
    assert tagged.returncode == 0, tagged.stderr
    assert "upload the client first" in tagged.stdout
    assert checkout.git("rev-parse", "v1.2.3^{commit}") == checkout.git("rev-parse", "HEAD")
    stems = ("keepsight-1.2.3", "keepsight_client-1.2.3")
    kinds = (".tar.gz", "-py3-none-any.whl")
    built = {path.name for path in (checkout.root / "dist").iterdir()}
    assert built == {f"{stem}{kind}" for stem in stems for kind in kinds}

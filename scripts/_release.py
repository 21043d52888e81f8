"""What scripts/release runs: build both distributions from the current commit, check them, and tag it if asked to."""

from __future__ import annotations

import argparse
import ast
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from pathlib import Path
from zipfile import ZipFile

ROOT = Path(__file__).resolve().parents[1]
CLIENT = "keepsight/client"
HEADING = re.compile(r"^## \[(?P<name>[^\]]+)\](?: - (?P<date>\d{4}-\d{2}-\d{2}))?$", re.MULTILINE)


class RefusedError(Exception):
    """There is nothing to release, or it does not hold together. The message says what to do first."""


def main() -> int:
    """Exit status 1, and a sentence, if the release is refused."""
    parser = argparse.ArgumentParser(
        prog="scripts/release",
        description="Build keepsight and keepsight-client from the current commit into dist/, check them, and run the "
        "packaging tests on them. Publishes nothing.",
    )
    parser.add_argument("--tag", action="store_true", help="tag the commit vVERSION if everything passed")
    arguments = parser.parse_args()
    try:
        version = release(ROOT, tag=arguments.tag)
    except RefusedError as error:
        print(f"keepsight: {error}", file=sys.stderr)
        return 1
    print(f"dist/ holds keepsight and keepsight-client {version}; upload the client first, which the other requires")
    return 0


def release(root: Path, *, tag: bool) -> str:
    """Do all of it and return the version.

    Raises:
        RefusedError: a check has failed; nothing is tagged then.
    """
    version = version_of(root)
    check_sources(root, version)
    dist = root / "dist"
    build(root, dist)
    check_built(dist, version)
    run_packaging_tests(root, dist)
    if tag:
        git(root, "tag", "--annotate", f"v{version}", "--message", f"Keepsight {version}")
    return version


def version_of(root: Path) -> str:
    """The version that the client's package says, which is both distributions'."""
    module = ast.parse((root / CLIENT / "__init__.py").read_text(encoding="utf-8"))
    for node in module.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__version__":
            return str(ast.literal_eval(node.value))
    raise RefusedError(f"{CLIENT}/__init__.py says no __version__")


def check_sources(root: Path, version: str) -> None:
    """Check that the commit is what will be released, and says everywhere what it is.

    Raises:
        RefusedError: the sentence names the file to change.
    """
    changed = git(root, "status", "--porcelain").splitlines()
    if changed:
        raise RefusedError(f"the work tree is not clean; commit or remove: {', '.join(line[3:] for line in changed)}")
    if git(root, "tag", "--list", f"v{version}"):
        raise RefusedError(f"v{version} is tagged already; raise __version__ in {CLIENT}/__init__.py")
    required = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    pin = f"keepsight-client=={version}"
    if pin not in required:
        raise RefusedError(f"pyproject.toml does not require {pin}")
    check_changelog((root / "CHANGELOG.md").read_text(encoding="utf-8"), version)


def check_changelog(text: str, version: str) -> None:
    """Check that the newest section is this version's, dated, and that nothing waits above it.

    Raises:
        RefusedError: it is not.
    """
    found = list(HEADING.finditer(text))
    if found and found[0]["name"] == "Unreleased":
        if text[found[0].end() : found[1].start() if len(found) > 1 else len(text)].strip():
            raise RefusedError(f"CHANGELOG.md has changes under [Unreleased]; move them under [{version}]")
        del found[0]
    if not found or found[0]["name"] != version or found[0]["date"] is None:
        raise RefusedError(f"CHANGELOG.md has no newest section '## [{version}] - YYYY-MM-DD'")


def build(root: Path, dist: Path) -> None:
    """Build both distributions from a fresh clone, so that nothing git does not track can get into them.

    Raises:
        RefusedError: one cannot be built.
    """
    dist.mkdir(exist_ok=True)
    for left_over in dist.glob("keepsight*"):
        left_over.unlink()
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "source"
        git(root, "clone", "--quiet", "--shared", str(root), str(source))
        for project in (source / CLIENT, source):
            command = [sys.executable, "-P", "-m", "build", "--no-isolation", "--outdir", str(dist), str(project)]
            if subprocess.run(command, check=False, stdout=subprocess.DEVNULL).returncode != 0:
                raise RefusedError(f"{project.relative_to(source)} cannot be built; the message is above")


def check_built(dist: Path, version: str) -> None:
    """Check that there are two files of each distribution, whose metadata an index would accept.

    Raises:
        RefusedError: a file is missing, is of another version, or has invalid metadata.
    """
    from packaging.metadata import Metadata

    for name in ("keepsight", "keepsight-client"):
        stem = f"{name.replace('-', '_')}-{version}"
        for path in (dist / f"{stem}.tar.gz", dist / f"{stem}-py3-none-any.whl"):
            if not path.exists():
                raise RefusedError(f"dist/ lacks {path.name}")
            try:
                metadata = Metadata.from_email(metadata_in(path), validate=True)
            except ExceptionGroup as group:
                raise RefusedError(f"{path.name}: {'; '.join(map(str, group.exceptions))}") from group
            if (metadata.name, str(metadata.version)) != (name, version):
                raise RefusedError(f"{path.name} says that it is {metadata.name} {metadata.version}")


def metadata_in(path: Path) -> bytes:
    """The core metadata of a wheel or a source distribution."""
    if path.suffix == ".whl":
        with ZipFile(path) as wheel:
            return wheel.read(next(name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")))
    with tarfile.open(path) as sdist:
        member = sdist.extractfile(f"{path.name.removesuffix('.tar.gz')}/PKG-INFO")
        assert member is not None, "it is a file"
        return member.read()


def run_packaging_tests(root: Path, dist: Path) -> None:
    """Install and use exactly what was built.

    Raises:
        RefusedError: a test has failed.
    """
    command = [sys.executable, "-m", "pytest", "-q", "tests/packaging"]
    environment = {**os.environ, "KEEPSIGHT_DISTRIBUTIONS": str(dist)}
    if subprocess.run(command, cwd=root, env=environment, check=False).returncode != 0:
        raise RefusedError("the packaging tests failed; their output is above")


def git(root: Path, *arguments: str) -> str:
    """What git prints.

    Raises:
        RefusedError: git says why it cannot.
    """
    ran = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=False)  # noqa: S607
    if ran.returncode != 0:
        raise RefusedError(f"git {arguments[0]}: {ran.stderr.strip()}")
    return ran.stdout.rstrip("\n")


if __name__ == "__main__":
    sys.exit(main())

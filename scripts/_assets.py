"""Fetches the page's libraries from npm, and writes them with their licences and a manifest of their digests.

Of ECharts the page needs less than half, and a browser spends a tenth of a second on the rest before it draws.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENDOR = ROOT / "app" / "web" / "assets" / "vendor"
FOR_TESTS = ROOT / "tests" / "browser" / "axe"
ICONS = (
    "activity", "arrow-right", "ban", "camera", "check", "circle-alert", "circle-check", "circle-help",
    "circle-x", "clock", "file-archive", "flask-conical", "folder", "folder-plus", "git-branch", "git-compare",
    "git-merge", "graduation-cap", "image", "image-plus", "info", "key-round", "list-checks", "loader-circle",
    "log-in", "log-out", "menu", "monitor", "moon", "pencil", "pin", "plus", "refresh-cw", "rotate-ccw",
    "scan-search", "search", "sun", "tags", "trash-2", "triangle-alert", "undo-2", "upload", "wifi-off", "x",
    "zap",
)  # fmt: skip


ESBUILD = "0.28.2"


@dataclass(frozen=True)
class Package:
    """What is taken from one package: its files by their new names, and the files of its licence.

    `parts` is a script that imports what is wanted of a package: it becomes one file, named like the folder. Then
    `licences` are by the package that has them, since others are in that file too.
    """

    name: str
    version: str
    folder: str
    files: dict[str, str]
    licences: tuple[str, ...] = ("LICENSE",)
    parts: Path | None = None


PAGE = (
    Package("@picocss/pico", "2.1.1", "pico", {"css/pico.min.css": "pico.min.css"}, ("LICENSE.md",)),
    Package("htmx.org", "2.0.11", "htmx", {"dist/htmx.min.js": "htmx.min.js"}),
    Package(
        "echarts", "6.1.0", "echarts", {},
        ("LICENSE", "NOTICE", "licenses/LICENSE-d3", "../zrender/LICENSE", "../tslib/LICENSE.txt"),
        ROOT / "scripts" / "_charts.mjs",
    ),
    Package("fflate", "0.8.3", "fflate", {"esm/browser.js": "fflate.js"}),
    Package("lucide-static", "1.62.0", "lucide", {}),
)  # fmt: skip
TESTS = (Package("axe-core", "4.14.1", ".", {"axe.min.js": "axe.min.js"}, ("LICENSE", "LICENSE-3RD-PARTY.txt")),)


def main() -> None:
    """Replace both folders by what the packages have."""
    for folder, packages in ((VENDOR, PAGE), (FOR_TESTS, TESTS)):
        shutil.rmtree(folder, ignore_errors=True)
        entries = [_take(package, folder) for package in packages]
        (folder / "MANIFEST.json").write_text(json.dumps(entries, indent=2) + "\n")


def _take(package: Package, target: Path) -> dict[str, object]:
    with tempfile.TemporaryDirectory() as work:
        source = _unpacked(package, Path(work))
        about = json.loads((source / "package.json").read_text())
        folder = target / package.folder
        folder.mkdir(parents=True, exist_ok=True)
        written = []
        for name, new in package.files.items():
            written.append(folder / new)
            # maps of sources are not shipped, so nothing should look for them
            text = re.sub(r"\n?(//|/\*)# sourceMappingURL=[^\n]*", "", (source / name).read_text("utf-8"))
            written[-1].write_text(text, "utf-8")
        if package.parts is not None:
            written.append(folder / f"{package.folder}.mjs")
            _bundle(package, Path(work), written[-1])
        if package.name == "lucide-static":
            written.append(folder / "icons.svg")
            written[-1].write_text(_sprite(source / "icons"))
        licences = []
        for name in package.licences:
            owner = Path(name).parts[1] if name.startswith("../") else ""
            licences.append(folder / (f"LICENSE-{owner}" if owner else Path(name).name))
            shutil.copyfile(source / name, licences[-1])
    digests = {
        str(path.relative_to(target)): hashlib.sha256(path.read_bytes()).hexdigest() for path in [*written, *licences]
    }
    return {
        "package": package.name,
        "version": about["version"],
        "license": about["license"],
        "license_files": [str(path.relative_to(target)) for path in licences],
        "sha256": digests,
    }


def _unpacked(package: Package, work: Path) -> Path:
    """Return the folder of a package; one of which parts are taken has what it needs beside it."""
    named = f"{package.name}@{package.version}"
    if package.parts is not None:
        _run("npm", "install", "--silent", "--ignore-scripts", "--no-audit", named, f"esbuild@{ESBUILD}", cwd=work)
        return work / "node_modules" / package.name
    _run("npm", "pack", "--silent", named, cwd=work)
    (archive,) = work.glob("*.tgz")
    with tarfile.open(archive) as unpacked:
        unpacked.extractall(work, filter="data")
    return work / "package"


def _bundle(package: Package, work: Path, target: Path) -> None:
    """Write the wanted parts of a package, and what they need, as one module."""
    assert package.parts is not None
    shutil.copy(package.parts, work)
    said = f"/* {package.name} {package.version} and what it needs; their licences are beside this file */"
    command = ["node_modules/.bin/esbuild", package.parts.name, f"--outfile={target}", f"--banner:js={said}"]
    command += ["--bundle", "--minify", "--format=esm", "--target=es2022", "--legal-comments=none"]
    _run(*command, "--log-level=warning", cwd=work)


def _run(*command: str, cwd: Path) -> None:
    subprocess.run(command, cwd=cwd, check=True)


def _sprite(icons: Path) -> str:
    """Return one SVG with a symbol for each icon, to be shown with <use>."""
    symbols = []
    for name in ICONS:
        svg = (icons / f"{name}.svg").read_text()
        found = re.search(r"<svg[^>]*>(.*)</svg>", svg, re.DOTALL)
        assert found is not None, f"{name}.svg holds no svg"
        drawing = re.sub(r"\s+", " ", found[1]).strip().replace("> <", "><")
        symbols.append(f'<symbol id="{name}" viewBox="0 0 24 24">{drawing}</symbol>')
    return '<svg xmlns="http://www.w3.org/2000/svg">\n' + "\n".join(symbols) + "\n</svg>\n"


if __name__ == "__main__":
    main()

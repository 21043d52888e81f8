"""Fetches the page's libraries from npm, and writes them with their licences and a manifest of their digests."""

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


@dataclass(frozen=True)
class Package:
    """What is taken from one package: its files by their new names, and the files of its licence."""

    name: str
    version: str
    folder: str
    files: dict[str, str]
    licences: tuple[str, ...] = ("LICENSE",)


PAGE = (
    Package("@picocss/pico", "2.1.1", "pico", {"css/pico.min.css": "pico.min.css"}, ("LICENSE.md",)),
    Package("htmx.org", "2.0.11", "htmx", {"dist/htmx.min.js": "htmx.min.js"}),
    Package(
        "echarts", "6.1.0", "echarts", {"dist/echarts.esm.min.mjs": "echarts.esm.min.mjs"},
        ("LICENSE", "NOTICE", "licenses/LICENSE-d3"),
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
        subprocess.run(["npm", "pack", "--silent", f"{package.name}@{package.version}"], cwd=work, check=True)  # noqa: S607
        (archive,) = Path(work).glob("*.tgz")
        with tarfile.open(archive) as unpacked:
            unpacked.extractall(work, filter="data")
        source = Path(work) / "package"
        about = json.loads((source / "package.json").read_text())
        folder = target / package.folder
        folder.mkdir(parents=True, exist_ok=True)
        written = []
        for name, new in package.files.items():
            written.append(folder / new)
            # maps of sources are not shipped, so nothing should look for them
            text = re.sub(r"\n?(//|/\*)# sourceMappingURL=[^\n]*", "", (source / name).read_text("utf-8"))
            written[-1].write_text(text, "utf-8")
        if package.name == "lucide-static":
            written.append(folder / "icons.svg")
            written[-1].write_text(_sprite(source / "icons"))
        licences = []
        for name in package.licences:
            licences.append(folder / Path(name).name)
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

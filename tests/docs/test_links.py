"""Every page's links lead somewhere, and every page can be reached."""

from __future__ import annotations

import functools
import importlib
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.docs.markdown import DOCS, PAGES, ROOT, anchors, links, prose, read, rows, section

OURS = r"`((?:segp_cl|model_store|exchange|app|worker|keepsight|benchmarks|scripts|tests|docs)"
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
DECISIONS = sorted((DOCS / "adr").glob("[0-9]*.md"))
STATUS = re.compile(
    r"^Status: (?P<status>accepted|rejected|superseded by \d{4}), (?P<date>\d{4}-\d{2}-\d{2})$", re.MULTILINE
)


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_links_resolve(page: Path) -> None:
    for link in links(page):
        if re.match(r"[a-z]+:", link):
            assert link.startswith("https://"), link
            continue
        path, _, fragment = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.is_file(), f"{link} leads nowhere"
        assert target.is_relative_to(ROOT), f"{link} leads out of the repository"
        if fragment:
            assert fragment in anchors(target), f"{link}: no such heading"


def test_files_and_folders_that_are_named_exist() -> None:
    named = {(page, path) for page in PAGES for path in re.findall(OURS + r"/[\w./-]*)`", prose(page))}
    assert len(named) > 20
    assert {(page.name, path) for page, path in named if not (ROOT / path).exists()} == set()


def test_modules_that_the_architecture_names_are_in_their_folder() -> None:
    rooms = re.split(r"^\*\*`(\w+)/`\.\*\*", section(DOCS / "architecture.md", "## Folders"), flags=re.MULTILINE)[1:]
    named = [
        (room, name)
        for room, text in zip(rooms[::2], rooms[1::2], strict=True)
        for name in re.findall(r"`(\w+\.py)`", text)
    ]
    assert len(named) > 20
    assert [(room, name) for room, name in named if not any((ROOT / room).rglob(name))] == []


def test_modules_and_names_that_are_named_exist() -> None:
    named = {(page, name) for page in PAGES for name in re.findall(OURS + r"(?:\.\w+)+)`", prose(page))}
    named = {(page, name) for page, name in named if not (ROOT / name).is_file()}
    assert len(named) > 20
    assert {(page.name, name) for page, name in named if not is_name(name)} == set()


def is_name(dotted: str) -> bool:
    """Whether a module, or something in one, has this name."""
    parts = dotted.split(".")
    for length in range(len(parts), 0, -1):
        try:
            found: object = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        try:
            return functools.reduce(getattr, parts[length:], found) is not None
        except AttributeError:
            return False
    return False


def test_a_name_that_does_not_exist_would_be_noticed() -> None:
    assert is_name("segp_cl.runtime.hardware.choose_device")
    assert is_name("exchange.rollout")
    assert not is_name("segp_cl.runtime.hardware.choose_planet")
    assert not is_name("segp_cl.runtime.software")


def test_every_page_is_reached_from_the_readme() -> None:
    reached: set[Path] = set()
    waiting = [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        if page not in reached:
            reached.add(page)
            targets = [(page.parent / link.partition("#")[0]).resolve() for link in links(page)]
            waiting += [target for target in targets if target.suffix == ".md"]
    assert set(PAGES) - reached == set()


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_tables_have_as_many_cells_in_every_row(page: Path) -> None:
    width: int | None = None
    for number, line in enumerate(prose(page).splitlines(), start=1):
        if not line.lstrip().startswith("|"):
            width = None
            continue
        cells = line.strip().strip("|").count("|")
        width = cells if width is None else width
        assert cells == width, f"line {number}: {line}"


def test_decisions_are_numbered_without_a_gap_and_have_their_parts() -> None:
    assert [int(path.name[:4]) for path in DECISIONS] == list(range(1, len(DECISIONS) + 1))
    for path in DECISIONS:
        text = read(path)
        assert text.startswith(f"# {path.name[:4]}: "), path.name
        assert STATUS.search(text), f"{path.name} has no status and date"
        for part in ("**Context.**", "**Decision.**", "**Consequences.**"):
            assert part in text, f"{path.name} has no {part}"


def test_the_index_lists_every_decision_with_its_title_status_and_date() -> None:
    listed = [cells for cells in rows(read(DOCS / "adr" / "index.md")) if cells[0].isdigit()]
    expected = []
    for path in DECISIONS:
        text = read(path)
        title = text.partition("\n")[0].removeprefix(f"# {path.name[:4]}: ")
        status = STATUS.search(text)
        assert status, path.name
        expected.append([path.name[:4], f"[{title}]({path.name})", status["status"], status["date"]])
    assert listed == expected


def test_pictures_are_svg_with_a_title_and_their_own_background() -> None:
    pictures = sorted(path for path in (DOCS / "img").iterdir() if path.is_file())
    assert pictures
    screenshots = [path for path in (DOCS / "img").rglob("*") if path.is_file() and path not in pictures]
    assert {path.parent.name for path in screenshots} == {"web"}
    assert {path.suffix for path in screenshots} == {".png"}
    for picture in pictures:
        root = ElementTree.parse(picture).getroot()
        names = [element.tag.rpartition("}")[2] for element in root]
        assert root.tag.endswith("svg"), picture.name
        assert "title" in names, picture.name
        assert "desc" in names, picture.name
        # the first thing drawn fills the picture, so that it reads on a dark page too
        first = next(element for element in root if element.tag.endswith("rect"))
        assert float(first.get("width", "0")) >= 0.95 * float(root.get("width", "inf")), picture.name
        assert first.get("fill") not in (None, "none"), picture.name


def test_the_licence_is_apache_2_in_full() -> None:
    text = read(ROOT / "LICENSE")
    assert "Apache License" in text
    assert "Version 2.0, January 2004" in text
    assert "END OF TERMS AND CONDITIONS" in text
    assert "APPENDIX: How to apply the Apache License to your work." in text

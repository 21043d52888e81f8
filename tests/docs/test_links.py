"""Every page's links lead somewhere, and every page can be reached."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.docs.markdown import DOCS, PAGES, ROOT, anchors, links, prose, read

NAMES = [str(page.relative_to(ROOT)) for page in PAGES]


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


def test_decisions_are_numbered_without_a_gap_and_have_their_three_parts() -> None:
    decisions = sorted((DOCS / "adr").glob("*.md"))
    assert [int(path.name[:4]) for path in decisions] == list(range(1, len(decisions) + 1))
    for path in decisions:
        text = read(path)
        assert text.startswith(f"# {path.name[:4]}: "), path.name
        for part in ("**Context.**", "**Decision.**", "**Consequences.**"):
            assert part in text, f"{path.name} has no {part}"


def test_pictures_are_svg_with_a_title_and_their_own_background() -> None:
    pictures = sorted((DOCS / "img").iterdir())
    assert pictures
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

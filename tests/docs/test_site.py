"""The documentation as a site: it builds without a warning, is complete, and loads nothing from another host."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from functools import cached_property
from html.parser import HTMLParser
from pathlib import Path

import pytest

import keepsight.client
import segp_cl
from tests.docs.markdown import DOCS, ROOT, read

DOCUMENTED = ("segp_cl", "keepsight", "model_store", "exchange")
LOADS = {"audio": "src", "embed": "src", "iframe": "src", "img": "src", "link": "href", "object": "data"}
LOADS |= {"script": "src", "source": "src", "track": "src", "video": "src"}
# Markdown that a forge renders and the site leaves as text
UNRENDERED = re.compile(r"^(?:[-*] |\d+\. |\||:::).*|```|\]\[", re.MULTILINE)
ELEMENTS = {
    "a", "article", "blockquote", "br", "code", "div", "em", "h1", "h2", "h3", "h4", "h5", "h6", "hr", "img", "li",
    "ol", "p", "pre", "small", "span", "strong", "table", "tbody", "td", "th", "thead", "tr", "ul",
}  # fmt: skip
ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*:|//", re.IGNORECASE)


@dataclass
class Page(HTMLParser):
    """What a page of the site refers to, what can be referred to in it, and its prose."""

    path: Path
    ids: set[str] = field(default_factory=set)
    links: list[str] = field(default_factory=list)
    loads: list[str] = field(default_factory=list)
    elements: set[str] = field(default_factory=set)
    prose: str = ""

    def __post_init__(self) -> None:
        super().__init__()
        self._inside: list[str] = []
        self.feed(self.path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.ids |= {value for name, value in attrs if name == "id" and value}
        if tag == "a" and (link := values.get("href")):
            self.links.append(link)
        if source := values.get(LOADS.get(tag, "")):
            self.loads.append(source)
        if "article" in self._inside:
            self.elements.add(tag)
        if tag in ("article", "code", "pre", "script", "style"):
            self._inside.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if self._inside and self._inside[-1] == tag:
            self._inside.pop()

    def handle_data(self, data: str) -> None:
        if self._inside == ["article"]:
            self.prose += data


@dataclass(frozen=True)
class Site:
    """The built site and what the build said."""

    folder: Path
    said: str

    @cached_property
    def pages(self) -> dict[Path, Page]:
        """All pages by path but 404.html, whose links depend on the address that it is shown at."""
        return {path: Page(path) for path in sorted(self.folder.rglob("*.html")) if path.name != "404.html"}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """Built from a copy, so that nothing of it is left in the repository."""
    copy = tmp_path_factory.mktemp("documentation")
    shutil.copy(ROOT / "mkdocs.yml", copy)
    shutil.copytree(DOCS, copy / "docs")
    for package in DOCUMENTED:
        shutil.copytree(ROOT / package, copy / package, ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "zensical", "build", "--strict"]
    built = subprocess.run(command, cwd=copy, capture_output=True, text=True, check=False)
    said = built.stdout + built.stderr
    assert built.returncode == 0, said
    return Site(copy / "site", said)


def test_the_build_reports_no_issue(site: Site) -> None:
    assert "No issues found" in site.said
    assert re.findall(r"(?i).*(?:warning|error|could not).*", site.said) == []


def test_every_page_and_picture_is_in_it(site: Site) -> None:
    for source in sorted(path for path in DOCS.rglob("*") if path.is_file()):
        target = site.folder / source.relative_to(DOCS)
        if source.suffix == ".md":
            target = target.with_name("index.html" if source.name == "README.md" else f"{source.stem}.html")
            assert target in site.pages, source
        else:
            assert target.read_bytes() == source.read_bytes(), source


def test_links_lead_to_pages_and_headings_that_exist(site: Site) -> None:
    for path, page in site.pages.items():
        for link in page.links:
            if ADDRESS.match(link):
                continue
            file, _, fragment = link.partition("#")
            target = (path.parent / file).resolve() if file else path
            assert target.is_file(), f"{path.name}: {link}"
            if fragment and target in site.pages:
                assert fragment in site.pages[target].ids, f"{path.name}: {link}"


def test_no_page_loads_anything_from_another_host(site: Site) -> None:
    for path, page in site.pages.items():
        assert page.loads, path
        for source in page.loads:
            assert not ADDRESS.match(source), f"{path.name} loads {source}"
            assert (path.parent / source.partition("?")[0]).is_file(), f"{path.name} loads {source}"
    sheets = sorted(site.folder.rglob("*.css"))
    assert sheets
    for sheet in sheets:
        assert re.findall(r"url\(\s*[\"']?(?:https?:)?//[^)]*|@import[^;]*", sheet.read_text(encoding="utf-8")) == []


def test_all_markdown_is_rendered(site: Site) -> None:
    for path, page in site.pages.items():
        assert UNRENDERED.findall(page.prose) == [], path.name
        # <word> outside of code is an element to a browser, which shows nothing
        assert page.elements - ELEMENTS == set(), path.name


def test_nested_lists_are_indented_as_the_site_needs_it() -> None:
    for page in DOCS.rglob("*.md"):
        assert re.findall(r"^ {1,3}(?:[-*]|\d+\.) .*", read(page), re.MULTILINE) == [], page.name


@pytest.mark.parametrize(
    ("page", "names"),
    [
        ("segp_cl", [f"segp_cl.{name}" for name in segp_cl.__all__]),
        ("client", [f"keepsight.client.{name}" for name in keepsight.client.__all__ if name != "__version__"]),
        ("equations", ["segp_cl.losses.acgd_loss", "segp_cl.metrics.Summary"]),
        ("model_store", ["model_store.store.Store", "model_store.types.Manifest"]),
        ("contracts", ["exchange.contracts.JobState"]),
    ],
)
def test_the_reference_documents_the_public_names(site: Site, page: str, names: list[str]) -> None:
    ids = site.pages[site.folder / "reference" / f"{page}.html"].ids
    assert [name for name in names if name not in ids] == []

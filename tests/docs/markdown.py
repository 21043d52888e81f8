"""What the documentation's tests read out of Markdown."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md"), *ROOT.glob("examples/*.md")])

_FENCE = re.compile(r"^ *```(?P<info>[^\n`]*)\n(?P<text>.*?)^ *```\s*$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"!?\[[^\]]*\]\((?P<target>[^)\s]+)\)")


@dataclass(frozen=True)
class Block:
    """A fenced block: `language` and `tag` are the first two words behind its fence."""

    page: Path
    language: str
    tag: str
    text: str


def read(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def blocks(page: Path) -> list[Block]:
    found = []
    for match in _FENCE.finditer(read(page)):
        language, _, tag = match["info"].strip().partition(" ")
        found.append(Block(page, language, tag.strip(), match["text"]))
    return found


def prose(page: Path) -> str:
    """The page without its fenced blocks."""
    return _FENCE.sub("", read(page))


def links(page: Path) -> list[str]:
    return [match["target"] for match in _LINK.finditer(prose(page))]


def anchors(page: Path) -> set[str]:
    """The fragments that a page's headings can be linked by, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def rows(text: str) -> Iterator[list[str]]:
    """The cells of every table row, headers and rulers left out."""
    lines = text.splitlines()
    for number, line in enumerate(lines):
        after = lines[number + 1] if number + 1 < len(lines) else ""
        if line.startswith("|") and not _is_ruler(line) and not _is_ruler(after):
            yield [cell.strip() for cell in line.strip().strip("|").split("|")]


def section(page: Path, heading: str) -> str:
    """What stands below a heading, to the next one of its level or above."""
    level = len(heading) - len(heading.lstrip("#"))
    found: list[str] = []
    inside = False
    for line in read(page).splitlines():
        if inside and re.match(rf"#{{1,{level}}} ", line):
            break
        if inside:
            found.append(line)
        inside = inside or line == heading
    assert inside, f"{page.name} has no heading {heading!r}"
    return "\n".join(found)


def code(cell: str) -> str:
    """A table's cell without its backticks."""
    return cell.strip("`")


def command_lines(page: Path) -> list[list[str]]:
    """The words of every line in a page's shell blocks; continued lines are joined."""
    lines = []
    for block in blocks(page):
        if block.language == "sh":
            text = block.text.replace("\\\n", " ")
            lines += [shlex.split(line, comments=True) for line in text.splitlines() if line.strip()]
    return [words for words in lines if words]


def _is_ruler(line: str) -> bool:
    return re.fullmatch(r"\|[\s:|-]+\|", line) is not None

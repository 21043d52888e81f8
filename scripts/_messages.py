"""Collects the page's messages, and brings its catalogues up to date or says what they lack."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from babel.messages.catalog import Catalog  # noqa: E402
from babel.messages.extract import extract_from_file  # noqa: E402
from babel.messages.pofile import read_po, write_po  # noqa: E402

from app.problems import TABLE, answer_for  # noqa: E402

WEB = ROOT / "app" / "web"
LOCALE = WEB / "locale"
SOURCE = "en"


def collected() -> Catalog:
    """Return every message of templates, scripts, navigation and the titles of problems."""
    catalog = Catalog()
    sources = [
        *(("jinja2", path, {"trim_blocks": "true", "lstrip_blocks": "true"}) for path in sorted(WEB.rglob("*.html"))),
        *(("javascript", path, {}) for path in sorted((WEB / "assets" / "js").rglob("*.js"))),
        *(("python", path, {}) for path in sorted(WEB.rglob("*.py"))),
    ]
    keywords = {"_": None, "gettext": None, "ngettext": (1, 2), "N_": None}
    for method, path, options in sources:
        name = path.relative_to(ROOT).as_posix()
        for _, message, _, _ in extract_from_file(method, path, keywords=keywords, options=options):
            if message and not (isinstance(message, tuple) and not all(message)):
                flags = ["python-format"] if "%(" in str(message) else []
                catalog.add(message, locations=[(name, 0)], flags=flags)
    for title in sorted({answer.title for answer in TABLE.values()} | {answer_for(Exception()).title}):
        catalog.add(title, locations=[("app/problems.py", 0)])
    return catalog


def lacking(path: Path, wanted: Catalog) -> list[str]:
    """Return what is wrong with a catalogue, in words."""
    with path.open("rb") as file:
        catalog = read_po(file, locale=path.stem)
    said = [f"{path.name}: not there: {message.id!r}" for message in wanted if message.id and message.id not in catalog]
    for message in catalog:
        if not message.id:
            continue
        strings = message.string if isinstance(message.string, tuple | list) else (message.string,)
        if wanted.get(message.id[0] if isinstance(message.id, tuple | list) else message.id) is None:
            said.append(f"{path.name}: used nowhere: {message.id!r}")
        if message.fuzzy or not all(strings):
            said.append(f"{path.name}: not translated: {message.id!r}")
        said += [f"{path.name}: {message.id!r}: {error}" for error in message.check(catalog)]
    return said


def update(path: Path, wanted: Catalog) -> None:
    """Write a catalogue anew, with the translations that it has."""
    with path.open("rb") as file:
        catalog = read_po(file, locale=path.stem)
    catalog.update(wanted, no_fuzzy_matching=True, update_creation_date=False)
    catalog.obsolete.clear()
    catalog.header_comment = (
        "# The page's texts. scripts/messages keeps this file up to date; translations are written here."
    )
    catalog.fuzzy = False
    for message in catalog:
        if path.stem == SOURCE and message.id:
            message.string = message.id
    with path.open("wb") as file:
        write_po(file, catalog, width=120, include_lineno=False, sort_output=True, omit_header=False)
    keep = [line for line in path.read_text("utf-8").splitlines() if not line.startswith(_NOISE)]
    path.write_text("\n".join(keep) + "\n", "utf-8")


_NOISE = tuple(
    f'"{name}'
    for name in ("POT-Creation-Date", "PO-Revision-Date", "Last-Translator", "Language-Team", "Report-Msgid",
                 "Project-Id", "Generated-By")
)  # fmt: skip


def main() -> int:
    """Update all catalogues, or check them with --check; return the exit status."""
    wanted, paths = collected(), sorted(LOCALE.glob("*.po"))
    if "--check" not in sys.argv[1:]:
        for path in paths:
            update(path, wanted)
    said = [line for path in paths for line in lacking(path, wanted)]
    print("\n".join(said), file=sys.stderr)
    return 1 if said else 0


if __name__ == "__main__":
    sys.exit(main())

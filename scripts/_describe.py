"""Writes what the routes say of themselves to app/openapi.json."""

from __future__ import annotations

import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from app.main import create_app  # noqa: E402
from app.openapi import DOCUMENT, described  # noqa: E402
from app.settings import Settings  # noqa: E402


def main() -> int:
    """Write the file and say where it is."""
    document = described(create_app(Settings(store=ROOT / "unused")))
    DOCUMENT.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"{DOCUMENT.relative_to(ROOT)} describes {len(document['paths'])} paths")
    return 0


if __name__ == "__main__":
    sys.exit(main())

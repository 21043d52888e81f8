"""What others wrote and the page ships: unchanged, licensed, and served so that it is fetched once."""

from __future__ import annotations

import gzip
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from app.web import install, served_files

ROOT = Path(__file__).parents[4]
VENDORED = [ROOT / "app" / "web" / "assets" / "vendor", ROOT / "tests" / "browser" / "axe"]


@pytest.fixture
def client() -> TestClient:
    app = FastAPI()
    install(app)
    return TestClient(app)


def manifest(folder: Path) -> list[dict[str, Any]]:
    return list(json.loads((folder / "MANIFEST.json").read_text()))


@pytest.mark.parametrize("folder", VENDORED, ids=lambda folder: folder.name)
def test_vendored_files_are_those_of_the_manifest_and_each_has_its_licence(folder: Path) -> None:
    sums = {name: digest for entry in manifest(folder) for name, digest in entry["sha256"].items()}
    there = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    del there["MANIFEST.json"]
    assert {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in there.items()} == sums
    for entry in manifest(folder):
        assert entry["license"] in {"MIT", "Apache-2.0", "0BSD", "BSD-0-Clause", "ISC", "MPL-2.0"}
        assert entry["license_files"], entry["package"]
        assert all((folder / name).stat().st_size > 100 for name in entry["license_files"])


def test_nothing_that_is_shipped_asks_for_a_map_of_its_source() -> None:
    for path in (ROOT / "app" / "web" / "assets").rglob("*.*s"):
        assert "sourceMappingURL" not in path.read_text("utf-8"), path


def test_a_file_is_kept_for_ever_under_its_digest_and_sent_compressed(client: TestClient) -> None:
    path = f"/assets/{served_files.digest()}/vendor/htmx/htmx.min.js"
    answer = client.get(path, headers={"Accept-Encoding": "gzip"})
    plain = (served_files.FOLDER / "vendor" / "htmx" / "htmx.min.js").read_bytes()
    assert answer.content == plain
    assert answer.headers["content-encoding"] == "gzip"
    assert "immutable" in answer.headers["cache-control"]
    assert answer.headers["content-type"].startswith("text/javascript")
    assert gzip.decompress(served_files.shipped("vendor/htmx/htmx.min.js").compressed or b"") == plain
    whole = client.get(path, headers={"Accept-Encoding": "identity"})
    assert (whole.content, "content-encoding" in whole.headers) == (plain, False)


@pytest.mark.parametrize(
    "path", ["0" * 16 + "/css/app.css", "{}/css/none.css", "{}/../rendering.py", "{}/%2e%2e/rendering.py", "{}/"]
)
def test_what_is_not_shipped_is_not_found(client: TestClient, path: str) -> None:
    assert client.get("/assets/" + path.replace("{}", served_files.digest())).status_code == 404

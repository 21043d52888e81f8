"""HEAD and OPTIONS, pages of other origins, a path before ours, and the documentation without a network."""

from __future__ import annotations

import hashlib
import io
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.testclient import TestClient

from app import docs_page, openapi
from app.settings import OWN_PATHS, Settings
from app.web.navigation import ENTRIES
from app.web.pages import ROUTERS
from keepsight.client import Client
from keepsight.keys import KeyFile
from tests.waiting import wait_until

Configure = Callable[..., Settings]
Serve = Callable[[Settings], TestClient]
Listen = Callable[[Settings], str]

GETS = ["/healthz", "/readyz", "/metrics", "/docs", "/openapi.json", "/v1/versions", "/v1/classes", "/v2/health/live"]
PAGE = "https://page.example"
ROUTES = {
    "/docs/assets/swagger-ui.css": "unmatched",
    "/nowhere": "unmatched",
    "/openapi.json": "unmatched",
    "/v1/versions/nope": "/v1/versions/{version_id}",
}
"""What the metrics call a path, where that is not the path itself."""


@pytest.mark.parametrize("path", [*GETS, "/", "/docs/assets/swagger-ui.css", "/v1/versions/nope", "/nowhere"])
def test_head_is_answered_as_get_without_a_body(
    path: str, configure: Configure, listen: Listen, client: TestClient
) -> None:
    url = listen(configure())
    with httpx.Client(base_url=url) as http:
        got, head = http.get(path), http.head(path)
        assert (head.status_code, head.content) == (got.status_code, b"")
        same = head.headers.keys() - {"date", "content-length"}
        assert {name: head.headers[name] for name in same} == {name: got.headers[name] for name in same}
        assert http.get("/healthz").json() == {"status": "alive"}  # over the same connection
        counted = f'method="HEAD",route="{ROUTES.get(path, path)}",status="{got.status_code}"'
        wait_until(lambda: counted in http.get("/metrics").text)  # counted after it is answered


def test_head_of_an_event_stream_ends_at_once(
    configure: Configure, listen: Listen, archive: Callable[[Mapping[str, int]], bytes]
) -> None:
    with httpx.Client(base_url=listen(configure())) as http:
        accepted = http.post("/v1/tasks", files={"archive": archive({"cat": 2})}, data={"name": "animals"})
        answer = http.head(f"{accepted.headers['location']}/events")
        assert (answer.status_code, answer.content) == (200, b"")
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert http.get("/healthz").status_code == 200


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/healthz", "GET, HEAD, OPTIONS"),
        ("/v1/classify", "OPTIONS, POST"),
        ("/v1/jobs/x", "DELETE, GET, HEAD, OPTIONS"),
        ("/docs", "GET, HEAD, OPTIONS"),
    ],
)
def test_a_path_names_all_its_methods(client: TestClient, path: str, allowed: str) -> None:
    asked = client.options(path)
    assert (asked.status_code, asked.headers["allow"], asked.content) == (204, allowed, b"")
    refused = client.put(path)
    assert (refused.status_code, refused.headers["allow"]) == (405, allowed)
    assert refused.headers["content-type"] == "application/problem+json"


def test_options_of_what_is_not_there_is_404_and_of_the_whole_server_names_everything(
    client: TestClient, configure: Configure, listen: Listen
) -> None:
    assert client.options("/nowhere").status_code == 404
    with httpx.Client() as http:
        whole = http.send(httpx.Request("OPTIONS", listen(configure()), extensions={"target": b"*"}))
    assert whole.status_code == 204
    assert {"DELETE", "GET", "HEAD", "OPTIONS", "POST"} <= set(whole.headers["allow"].split(", "))


def preflight(client: TestClient, origin: str) -> Any:
    headers = {"Origin": origin, "Access-Control-Request-Method": "POST"}
    headers["Access-Control-Request-Headers"] = "authorization,content-type,idempotency-key"
    return client.options("/v1/classify", headers=headers)


def test_no_page_of_another_origin_may_read_answers_unless_a_setting_names_it(
    configure: Configure, serve: Serve
) -> None:
    closed, opened = serve(configure()), serve(configure(cors_origins=f"{PAGE}, http://127.0.0.1:3000"))
    assert "access-control-allow-origin" not in preflight(closed, PAGE).headers
    assert "access-control-allow-origin" not in closed.get("/healthz", headers={"Origin": PAGE}).headers
    asked = preflight(opened, PAGE)
    assert (asked.status_code, asked.headers["access-control-allow-origin"]) == (200, PAGE)
    assert "idempotency-key" in asked.headers["access-control-allow-headers"]
    assert "access-control-allow-origin" not in preflight(opened, "https://other.example").headers
    missing = opened.get("/v1/versions/nope", headers={"Origin": PAGE})  # errors can be read too
    assert (missing.status_code, missing.headers["access-control-allow-origin"]) == (404, PAGE)
    assert {"Retry-After", "Location"} <= set(missing.headers["access-control-expose-headers"].split(", "))


def test_a_server_without_keys_answers_pages_of_named_origins_alone(configure: Configure, serve: Serve) -> None:
    named, every = serve(configure(cors_origins=PAGE)), serve(configure(cors_origins="*"))
    assert named.get("/v1/versions", headers={"Origin": PAGE}).status_code == 200
    assert named.get("/v1/versions", headers={"Origin": "https://other.example"}).status_code == 403
    assert named.get("/v1/versions", headers={"Origin": PAGE, "Host": "evil.example"}).status_code == 403
    assert every.get("/v1/versions", headers={"Origin": PAGE}).status_code == 403
    token = KeyFile(configure().keys_file).create("one", ["classify"]).token
    answer = every.get("/v1/versions", headers={"Origin": PAGE, "Authorization": f"Bearer {token}"})
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, "*")


@pytest.mark.parametrize("prefix", ["/vision", ""], ids=["prefix kept by the proxy", "prefix taken by the proxy"])
def test_below_a_path_every_address_has_it(
    prefix: str, configure: Configure, serve: Serve, archive: Callable[[Mapping[str, int]], bytes]
) -> None:
    client = serve(configure(root_path="/vision"))
    assert client.get(f"{prefix}/healthz").status_code == 200
    first = client.get(f"{prefix}/")
    assert first.status_code == 200
    assert first.headers["content-type"].startswith("text/html")
    links = set(re.findall(r'(?:src|href|action)="([^"#]+)"', first.text))
    assert {"/vision/docs", "/vision/teach"} <= links
    for link in links:
        assert link.startswith("/vision/"), link
        assert client.get(link.removeprefix("/vision") if not prefix else link).status_code in (200, 405), link
    slash = client.get(f"{prefix}/v1/versions/", follow_redirects=False)
    assert slash.headers["location"].endswith("/vision/v1/versions")
    assert client.get(f"{prefix}/openapi.json").json()["servers"] == [{"url": "/vision"}]
    page = client.get(f"{prefix}/docs").text
    for link in re.findall(r'(?:src|href)="([^"]+)"', page):
        assert client.get(f"{prefix}/{link}").status_code == 200
    accepted = client.post(f"{prefix}/v1/tasks", files={"archive": archive({"cat": 2})}, data={"name": "animals"})
    job = accepted.json()
    assert accepted.headers["location"] == job["location"] == f"/vision/v1/jobs/{job['job_id']}"
    assert client.get(job["location"]).json()["job_id"] == job["job_id"]
    assert "error" in client.get(f"{prefix}/v2/models/nope").json()  # as clients of that protocol want it
    too_large = client.post(f"{prefix}/v1/admin/rollback", content=b"x" * 2_000_000)
    assert too_large.status_code == 413
    assert client.post(f"{prefix}/v1/classify", content=b"x" * 2_000_000).status_code == 415


def test_the_client_works_below_a_path(
    configure: Configure, listen: Listen, archive: Callable[[Mapping[str, int]], bytes]
) -> None:
    url = listen(configure(root_path="/vision"))
    with Client(f"{url}/vision") as client:
        assert client.ready()
        accepted = client.teach(io.BytesIO(archive({"cat": 2})), name="animals")
        assert client.job(accepted["job_id"])["state"] == "queued"
        assert client.cancel(accepted["job_id"])["state"] == "cancelled"
        assert [job["state"] for job in client.follow(accepted["job_id"])] == ["cancelled"]


def test_paths_that_begin_like_ours_are_refused(client: TestClient) -> None:
    paths = [*client.get("/openapi.json").json()["paths"], "/docs", "/openapi.json", "/assets"]
    paths += [getattr(route, "path", "/") for router in ROUTERS for route in router.routes]
    paths += [entry.path for entry in ENTRIES]
    ours = {path.split("/")[1] for path in paths if path != "/"}
    assert ours == OWN_PATHS
    for path in ours:
        with pytest.raises(ValueError, match="own paths"):
            Settings(root_path=f"/{path}/x")
    for wrong in ("vision", "/vision/", "/a b", "//"):
        with pytest.raises(ValueError, match="root_path"):
            Settings(root_path=wrong)


def test_origins_that_are_none_are_refused() -> None:
    for wrong in ("page.example", "https://page.example/", "null", "https://*.example", "file://x"):
        with pytest.raises(ValueError, match="expected origins"):
            Settings.model_validate({"cors_origins": wrong})


def test_the_documentation_loads_nothing_from_elsewhere(client: TestClient) -> None:
    page = client.get("/docs")
    links = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert links
    assert all(not re.match(r"(\w+:)?//", link) for link in links)
    assert "<script>" not in page.text
    policy = dict(part.split(" ", 1) for part in page.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["connect-src"] == "'self'"
    assert client.get("/redoc").status_code == 404


def test_the_files_of_swagger_ui_are_those_that_were_published() -> None:
    lines = (docs_page.ASSETS / "SHA256SUMS").read_text().splitlines()[1:]
    sums = {name: digest for digest, name in (line.split() for line in lines)}
    kept = {path.name for path in docs_page.ASSETS.iterdir()}
    assert kept == {*sums, "SHA256SUMS", "start.js"}
    assert sums == {name: hashlib.sha256((docs_page.ASSETS / name).read_bytes()).hexdigest() for name in sums}
    assert sum(path.stat().st_size for path in docs_page.ASSETS.iterdir()) < 2_000_000


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="no browser is installed here")
def test_the_documentation_is_shown_by_a_browser_that_reaches_nothing_else(
    configure: Configure, listen: Listen, tmp_path: Path
) -> None:
    url = listen(configure())
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}/profile"]
    command += ["--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", "--virtual-time-budget=20000"]
    command += ["--enable-logging=stderr", "--dump-dom", f"{url}/docs"]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=200, check=True)
    assert "opblock-summary-path" in shown.stdout
    assert "/v1/classify" in shown.stdout
    assert "Content Security Policy" not in shown.stderr  # which would have refused what lies elsewhere, and said so


def test_the_description_is_read_before_anything_is_served(
    configure: Callable[..., Settings], serve: Callable[[Settings], TestClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    openapi._document.cache_clear()
    served = serve(configure())
    monkeypatch.setattr(openapi, "DOCUMENT", Path("no file can be opened"))
    assert served.get("/openapi.json").status_code == 200

"""The page over HTTP: who is let in, what a session may do, what its headers forbid, and errors as pages."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import pytest
from starlette.testclient import TestClient

from app.access import COOKIE, CSRF_HEADER
from app.settings import Settings
from app.web.navigation import ENTRIES
from keepsight.keys import SCOPES, KeyFile
from model_store.types import VersionId
from tests.page_paths import PAGES
from tests.waiting import wait_until

Configure = Callable[..., Settings]
Serve = Callable[[Settings], TestClient]
SAME = {"Sec-Fetch-Site": "same-origin"}
GERMAN = {"Accept-Language": "de"}
SCOPE_OF = {entry.path: entry.scope for entry in ENTRIES}


@pytest.fixture
def keys(configure: Configure) -> KeyFile:
    return KeyFile(configure().keys_file)


def sign_in(client: TestClient, token: str, wanted: str = "/", **headers: str) -> int:
    """Sign in as a browser does; the status of the answer."""
    answer = client.post(
        "/sign-in", data={"key": token, "next": wanted}, headers={**SAME, **headers}, follow_redirects=False
    )
    return answer.status_code


def csrf_of(client: TestClient) -> dict[str, str]:
    """The header that a page of this session sends."""
    found = re.search(r'<meta name="csrf-token" content="([0-9a-f]{64})">', client.get("/teach").text)
    assert found is not None
    return {CSRF_HEADER: found[1]}


@pytest.mark.parametrize("path", PAGES)
def test_every_page_is_answered_to_this_machine_without_keys_and_forbids_scripts_of_others(
    client: TestClient, path: str
) -> None:
    answer = client.get(path)
    assert answer.status_code == 200
    policy = answer.headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "same-origin"
    assert answer.headers["cache-control"] == "no-store"
    assert not re.search(r"<script(?![^>]*(src=|application/json))", answer.text)
    assert not re.search(r"\s(style|on[a-z]+)=", answer.text)
    assert "http://" not in re.sub(r"http://(127|www\.w3)", "", answer.text)


@pytest.mark.parametrize("path", PAGES)
@pytest.mark.parametrize(
    "headers", [{"Host": "evil.example"}, {"X-Forwarded-For": "1.2.3.4"}, {"Sec-Fetch-Site": "cross-site"}]
)
def test_without_keys_other_machines_and_sites_are_refused_with_a_page(
    client: TestClient, path: str, headers: Mapping[str, str]
) -> None:
    answer = client.get(path, headers=dict(headers), follow_redirects=False)
    assert answer.status_code == 403
    assert answer.headers["content-type"].startswith("text/html")
    assert "keepsight keys create" in answer.text
    assert 'href="/teach"' not in answer.text


def test_pages_lead_to_the_sign_in_and_back(client: TestClient, keys: KeyFile) -> None:
    token = keys.create("ada", ["train"]).token
    answer = client.get("/teach", follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (303, "/sign-in?next=%2Fteach")
    shown = "http://127.0.0.1:8000/versions/compare?one=a&other=b"
    part = client.get("/part/live", headers={"HX-Request": "true", "HX-Current-URL": shown})
    assert part.status_code == 204
    assert part.headers["hx-redirect"] == "/sign-in?next=%2Fversions%2Fcompare%3Fone%3Da%26other%3Db"
    scripted = client.get("/part/live", headers={"Accept": "application/json"})
    assert (scripted.status_code, scripted.json()["type"]) == (401, "urn:keepsight:problem:unauthorized")
    back = client.post("/sign-in", data={"key": token, "next": "/teach"}, headers=SAME, follow_redirects=False)
    assert (back.status_code, back.headers["location"]) == (303, "/teach")
    assert client.get("/teach").status_code == 200


@pytest.mark.parametrize(
    "wanted", ["//evil.example", "https://evil.example/", "\\\\evil.example", "/\\evil.example", ""]
)
def test_the_sign_in_leads_to_no_other_site(client: TestClient, keys: KeyFile, wanted: str) -> None:
    token = keys.create("ada", ["train"]).token
    back = client.post("/sign-in", data={"key": token, "next": wanted}, headers=SAME, follow_redirects=False)
    assert back.headers["location"] == "/"


def test_a_session_is_a_cookie_that_scripts_and_other_sites_do_not_get(
    client: TestClient, keys: KeyFile, configure: Configure
) -> None:
    token = keys.create("ada", ["train"]).token
    for origin, secure in (("http://127.0.0.1:8000", False), ("https://vision.example", True)):
        answer = client.post(
            "/sign-in", data={"key": token}, headers={**SAME, "Origin": origin}, follow_redirects=False
        )
        cookie = answer.headers["set-cookie"]
        assert cookie.startswith(f"{COOKIE}=")
        assert token not in cookie
        parts = {part.strip().lower() for part in cookie.split(";")[1:]}
        assert {"httponly", "samesite=strict", "path=/", f"max-age={int(configure().session_s)}"} <= parts
        assert ("secure" in parts) is secure


def test_a_wrong_key_is_refused_and_begins_nothing(client: TestClient, keys: KeyFile) -> None:
    created = keys.create("ada", ["train"])
    keys.revoke(keys.create("eve", ["train"]).key.id)
    for token in ("", created.token[:-1], created.key.sha256, created.key.id, "x" * 100_000):
        answer = client.post("/sign-in", data={"key": token}, headers=SAME, follow_redirects=False)
        assert (answer.status_code, "set-cookie" in answer.headers) == (401, False)
        assert "This key is unknown or was revoked." in answer.text
        assert created.token not in answer.text


@pytest.mark.parametrize("path", ["/sign-in", "/sign-out", "/preferences"])
@pytest.mark.parametrize(
    "headers",
    [{}, {"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"}, {"Origin": "https://evil.example"},
     {"Origin": "null"}],
)  # fmt: skip
def test_forms_of_other_sites_are_refused(
    client: TestClient, keys: KeyFile, path: str, headers: Mapping[str, str]
) -> None:
    token = keys.create("ada", ["train"]).token
    answer = client.post(path, data={"key": token, "theme": "dark"}, headers=dict(headers), follow_redirects=False)
    assert (answer.status_code, "set-cookie" in answer.headers) == (403, False)


def test_a_browser_that_sends_no_metadata_is_known_by_its_origin(client: TestClient, keys: KeyFile) -> None:
    token = keys.create("ada", ["train"]).token
    data = {"key": token}
    answer = client.post("/sign-in", data=data, headers={"Origin": "http://127.0.0.1:8000"}, follow_redirects=False)
    assert answer.status_code == 303


def test_a_session_may_do_with_the_api_what_its_key_may(client: TestClient, keys: KeyFile) -> None:
    assert sign_in(client, keys.create("ada", ["train"]).token) == 303
    assert client.get("/v1/jobs").status_code == 200
    assert client.get("/v1/admin/gate").json()["missing_scope"] == "admin"
    refused = client.delete("/v1/corrections")
    assert (refused.status_code, CSRF_HEADER in refused.json()["detail"]) == (403, True)
    assert client.delete("/v1/corrections", headers={CSRF_HEADER: "0" * 64}).status_code == 403
    assert client.delete("/v1/corrections", headers=csrf_of(client)).status_code == 200
    assert client.post("/v1/admin/rollback", headers=csrf_of(client)).json()["missing_scope"] == "admin"


def test_a_key_that_is_sent_counts_and_needs_no_token(client: TestClient, keys: KeyFile) -> None:
    sign_in(client, keys.create("ada", ["classify"]).token)
    other = keys.create("eve", ["train"]).token
    assert client.delete("/v1/corrections", headers={"Authorization": f"Bearer {other}"}).status_code == 200
    assert client.delete("/v1/corrections", headers={"Authorization": "Bearer ks_none"}).status_code == 401


def test_a_token_of_one_session_is_none_of_another(
    client: TestClient, keys: KeyFile, serve: Serve, configure: Configure
) -> None:
    token = keys.create("ada", ["train"]).token
    other = serve(configure())
    assert sign_in(client, token) == sign_in(other, token) == 303
    assert client.delete("/v1/corrections", headers=csrf_of(other)).status_code == 403


def test_every_server_of_the_store_knows_a_session_and_its_end(
    client: TestClient, keys: KeyFile, serve: Serve, configure: Configure
) -> None:
    created = keys.create("ada", ["train"])
    other = serve(configure())
    sign_in(client, created.token)
    other.cookies.set(COOKIE, client.cookies[COOKIE])
    assert other.get("/v1/jobs").status_code == 200
    assert other.post("/sign-out", headers=SAME, follow_redirects=False).status_code == 303
    answer = client.get("/v1/jobs")
    assert (answer.status_code, "sign in again" in answer.json()["detail"]) == (401, True)


def test_a_revoked_key_ends_its_sessions(client: TestClient, keys: KeyFile) -> None:
    created = keys.create("ada", ["train"])
    sign_in(client, created.token)
    assert client.get("/v1/jobs").status_code == 200
    keys.revoke(created.key.id)
    assert client.get("/v1/jobs").status_code == 401
    assert client.get("/teach", follow_redirects=False).status_code == 303


def test_keys_that_cannot_be_read_let_no_session_in(client: TestClient, keys: KeyFile) -> None:
    sign_in(client, keys.create("ada", ["train"]).token)
    keys.path.write_text("{")
    answer = client.get("/teach")
    assert (answer.status_code, answer.headers["content-type"][:9]) == (503, "text/html")
    assert client.get("/v1/jobs").status_code == 503


@pytest.mark.parametrize("scope", SCOPES)
def test_pages_ask_for_the_scope_of_what_they_show_and_say_which_is_missing(
    client: TestClient, keys: KeyFile, scope: str
) -> None:
    sign_in(client, keys.create("ada", [scope]).token)
    for path in PAGES:
        wanted = SCOPE_OF.get(path)
        if path == "/sign-in":
            continue
        answer = client.get(path)
        assert answer.status_code == (200 if wanted in (None, scope) else 403), path
        if answer.status_code == 403:
            assert "lacks the scope" in answer.text
    shown = client.get("/teach" if scope == "train" else "/" if scope == "classify" else "/sign-in").text
    for entry in ENTRIES:
        if scope != "admin":
            assert (f'href="{entry.path}"' in shown.partition("<nav")[2].partition("</nav>")[0]) is (
                entry.scope in (None, scope)
            ), entry


def test_a_name_of_a_class_is_never_code(client: TestClient, teach: Callable[..., VersionId]) -> None:
    teach('<img src=x onerror="alert(1)">', "{{ 7 * 7 }}")
    client.app.state.services.watcher.wake()  # type: ignore[attr-defined]
    wait_until(lambda: "7 * 7" in client.get("/").text)
    shown = client.get("/").text
    assert "<img src=x" not in shown
    assert "&lt;img src=x" in shown
    assert "{{ 7 * 7 }}" in shown


def test_errors_are_pages_in_the_reader_s_language(client: TestClient) -> None:
    answer = client.get("/teach/none", headers=GERMAN)
    assert answer.status_code == 404
    assert "Diesen Auftrag gibt es nicht" in answer.text
    assert '<html lang="de"' in answer.text
    part = client.get("/teach/none", headers={**GERMAN, "HX-Request": "true"})
    assert (part.status_code, "<html" in part.text) == (404, False)
    assert "Diesen Auftrag gibt es nicht" in part.text


def test_an_address_of_nothing_is_answered_with_a_page_to_people_alone(client: TestClient) -> None:
    browser = {**GERMAN, "Accept": "text/html,*/*;q=0.8"}
    answer = client.get("/nosuch", headers=browser)
    assert (answer.status_code, "Diese Seite gibt es nicht" in answer.text) == (404, True)
    for path, headers in (("/nosuch", {}), ("/v1/nosuch", browser)):
        answer = client.get(path, headers=headers)
        assert (answer.status_code, answer.headers["content-type"]) == (404, "application/problem+json")


def test_numbers_and_times_are_those_of_the_reader_s_region(client: TestClient) -> None:
    shown = client.get("/", headers={"Accept-Language": "de-CH,de;q=0.9"})
    assert '<html lang="de-CH"' in shown.text
    assert '<html lang="en"' in client.get("/", headers={"Accept-Language": "en-xx-9,*"}).text


def test_pages_open_while_the_broker_is_gone(configure: Configure, serve: Serve) -> None:
    client = serve(configure(redis_url="redis://127.0.0.1:1/0"))
    assert client.get("/").status_code == 200
    answer = client.get("/teach")
    assert (answer.status_code, "The job queue cannot be reached" in answer.text) == (200, True)


def test_language_and_theme_are_kept_and_only_known_ones(client: TestClient) -> None:
    data = {"theme": "dark", "language": "de", "back": "/teach"}
    answer = client.post("/preferences", data=data, headers=SAME, follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (303, "/teach")
    assert 'lang="de" data-root="" data-theme="dark"' in client.get("/").text
    client.post("/preferences", data={"theme": "x", "language": "../de", "back": "//evil.example"}, headers=SAME)
    assert 'lang="de" data-root="" data-theme="dark"' in client.get("/").text


def test_the_page_works_below_a_path(configure: Configure, serve: Serve) -> None:
    client = serve(configure(root_path="/vision"))
    shown = client.get("/vision/").text
    assert 'href="/vision/teach"' in shown
    assert 'data-root="/vision"' in shown
    style = re.search(r'href="(/vision/assets/[^"]+app\.css)"', shown)
    assert style is not None
    assert client.get(style[1]).status_code == 200
    KeyFile(configure().keys_file).create("ada", ["train"])
    answer = client.get("/vision/teach", follow_redirects=False)
    assert answer.headers["location"] == "/vision/sign-in?next=%2Fteach"

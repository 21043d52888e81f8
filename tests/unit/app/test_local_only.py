"""A server without keys answers this machine, and nothing that only seems to be it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request

from app.errors import ForbiddenError
from app.local_only import check_from_here
from app.settings import Settings

SETTINGS = Settings(store=Path("store"))
LISTED = SETTINGS.model_copy(update={"cors_origins": ("https://app.example",)})


def request(*headers: tuple[str, str], host: str | None = "127.0.0.1:8000", **more: Any) -> Request:
    raw = [(b"host", host.encode("latin-1"))] if host is not None else []
    raw += [(name.lower().encode(), text.encode("latin-1")) for name, text in headers]
    return Request({"type": "http", "method": "GET", "headers": raw, "client": ("127.0.0.1", 5), **more})


@pytest.mark.parametrize(
    "host", ["localhost", "127.0.0.1:8000", "[::1]:8000", "127.1.2.3", "LOCALHOST:1", "a.localhost"]
)
def test_requests_from_and_to_this_machine_are_answered(host: str) -> None:
    check_from_here(request(host=host), SETTINGS)
    check_from_here(request(host=host, client=("::1", 5)), SETTINGS)
    check_from_here(request(host=host, client=("::ffff:127.0.0.1", 5)), SETTINGS)
    check_from_here(request(host=host, client=None), SETTINGS)
    check_from_here(request(("Origin", f"http://{host}"), ("Sec-Fetch-Site", "same-origin"), host=host), SETTINGS)
    check_from_here(request(("Sec-Fetch-Site", "none"), host=host), SETTINGS)
    check_from_here(request(("Referer", f"http://{host}/docs"), host=host, method="POST"), SETTINGS)


@pytest.mark.parametrize(
    "name",
    ["X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Forwarded-Anything", "Forwarded", "Via",
     "X-Real-IP", "CF-Connecting-IP", "CF-Ray", "True-Client-IP", "X-Client-IP", "X-Cluster-Client-IP",
     "Fastly-Client-IP", "Fly-Client-IP", "X-Original-Forwarded-For", "X-Envoy-External-Address", "Forwarded-For",
     "X-Forwarded", "X-Amzn-Trace-Id", "X-Cloud-Trace-Context", "Tailscale-User-Login", "CDN-Loop"],
)  # fmt: skip
@pytest.mark.parametrize("value", ["203.0.113.9", "127.0.0.1", ""])
def test_what_was_forwarded_is_refused_whatever_it_says(name: str, value: str) -> None:
    with pytest.raises(ForbiddenError, match=f"forwarded.*{name.lower()}.*keepsight keys create"):
        check_from_here(request((name, value)), SETTINGS)


@pytest.mark.parametrize(
    "host",
    ["evil.example", "192.168.1.5:8000", "[::1", "[::1]evil", "127.0.0.1.evil.example", "evil@127.0.0.1", "",
     "127.0.0.1:8000, evil.example", "localhost:8000/evil", "0.0.0.0", "127.0.0.1\\@evil", "[fe80::1]", "localhost:x",
     "\xff", "localhost:999999999", None],
)  # fmt: skip
def test_a_host_that_is_not_this_machine_or_is_odd_is_refused(host: str | None) -> None:
    with pytest.raises(ForbiddenError, match="asks for the host"):
        check_from_here(request(host=host), SETTINGS)


def test_two_hosts_are_refused() -> None:
    with pytest.raises(ForbiddenError, match="asks for the host"):
        check_from_here(request(("Host", "localhost")), SETTINGS)


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "", "http://[::1", "file://", "http://evil@localhost"]
)
def test_pages_of_elsewhere_are_refused(origin: str) -> None:
    with pytest.raises(ForbiddenError, match="a page of"):
        check_from_here(request(("Origin", origin)), SETTINGS)


@pytest.mark.parametrize("site", ["cross-site", "same-site", "odd", ""])
def test_requests_that_a_browser_calls_foreign_are_refused(site: str) -> None:
    with pytest.raises(ForbiddenError, match="another site"):
        check_from_here(request(("Sec-Fetch-Site", site)), SETTINGS)


@pytest.mark.parametrize("referer", ["https://evil.example/x", "about:blank", "http://[::1"])
def test_a_change_that_a_foreign_page_asks_for_is_refused(referer: str) -> None:
    with pytest.raises(ForbiddenError, match="from the page"):
        check_from_here(request(("Referer", referer), method="POST"), SETTINGS)
    check_from_here(request(("Referer", referer)), SETTINGS)


def test_another_machine_is_refused() -> None:
    with pytest.raises(ForbiddenError, match=r"comes from 203\.0\.113\.9"):
        check_from_here(request(client=("203.0.113.9", 5)), SETTINGS)


def test_pages_that_the_operator_lists_are_answered_unless_they_were_forwarded() -> None:
    page = (("Origin", "https://app.example"), ("Sec-Fetch-Site", "cross-site"), ("Referer", "https://app.example/x"))
    check_from_here(request(*page, method="POST"), LISTED)
    with pytest.raises(ForbiddenError):
        check_from_here(request(*page, method="POST"), SETTINGS)
    with pytest.raises(ForbiddenError, match="forwarded"):
        check_from_here(request(*page, ("Via", "1.1 proxy"), method="POST"), LISTED)
    with pytest.raises(ForbiddenError):
        check_from_here(request(("Origin", "https://app.example.evil"), method="POST"), LISTED)


def test_what_is_told_of_a_request_is_short() -> None:
    for hostile in (
        request(("Origin", "x" * 10_000)),
        request(host="y" * 10_000),
        request(("X-Forwarded-" + "z" * 9_999, "")),
    ):
        with pytest.raises(ForbiddenError) as refused:
            check_from_here(hostile, SETTINGS)
        assert len(str(refused.value)) < 400

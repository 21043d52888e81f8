"""Tells requests of this machine from all others, for a server without keys.

Whoever reaches the port from elsewhere comes through something on this machine: a proxy, a tunnel, or the browser of
somebody who visits a web page. Each of them leaves marks in the request.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection

from starlette.requests import Request

from app.errors import ForbiddenError
from app.settings import Settings, is_loopback

_FORWARDED = re.compile(
    r"forwarded|via|(?:x-forwarded|x-original|x-envoy|x-real|x-proxy|x-amz|x-amzn|x-azure|x-appengine|x-goog|x-cloud"
    r"|cf|cdn|fastly|fly|tailscale|ngrok|akamai)-.+|forwarded-for|x-forwarded|x-(?:cluster-)?client-ip|client-ip"
    r"|true-client-ip|x-remote-(?:addr|ip)|x-host|proxy-connection"
)
"""Headers that proxies, tunnels and content networks add."""
_AUTHORITY = re.compile(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9.-]+)(?::[0-9]{1,5})?")
_ORIGIN = re.compile(r"(https?://([^/?#\s]+))(?:[/?#].*)?", re.IGNORECASE)
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
"""Methods that change nothing."""


def check_from_here(request: Request, settings: Settings) -> None:
    """Admit a request that comes from this machine, and from no web page but those whose origin the settings list.

    Raises:
        ForbiddenError: it does not, or nothing says so; the message says by what it is seen.
    """
    why = _why_not_from_here(request, settings.cors_origins)
    if why is not None:
        raise ForbiddenError(
            f"without API keys, only requests from and to this machine are answered, and {why}; create a key with "
            "`keepsight keys create`, and send it"
        )


def _why_not_from_here(request: Request, allowed: Collection[str]) -> str | None:
    if request.client is not None and not _is_peer_here(request.client.host):
        return f"this one comes from {request.client.host[:60]}"
    headers = request.headers
    forwarded = next((name for name in headers if _FORWARDED.fullmatch(name)), None)
    if forwarded is not None:
        return f"this one was forwarded: it has the header {forwarded[:60]}"
    hosts = headers.getlist("host")
    if len(hosts) != 1 or not _is_here(hosts[0]):
        return f"this one asks for the host {', '.join(hosts)[:60]!r}"
    origins = headers.getlist("origin")
    if origins and all(_origin_of(origin) in allowed for origin in origins):
        return None
    if not all(_is_page_here(origin) for origin in origins):
        return f"this one comes from a page of {', '.join(origins)[:60]!r}"
    sites = headers.getlist("sec-fetch-site")
    if not all(site in ("none", "same-origin") for site in sites):
        return "this one comes from a page of another site"
    referers = headers.getlist("referer") if request.method not in SAFE_METHODS else []
    if not all(_is_page_here(referer) or _origin_of(referer) in allowed for referer in referers):
        return f"this one comes from the page {', '.join(referers)[:60]!r}"
    return None


def _is_peer_here(host: str) -> bool:
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return True  # a Unix socket, or a transport within the process
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)


def _is_here(authority: str) -> bool:
    """Return whether a Host header's value names this machine. Read strictly: what is odd is elsewhere."""
    found = _AUTHORITY.fullmatch(authority.strip())
    return found is not None and is_loopback(found[1])


def _origin_of(url: str) -> str:
    found = _ORIGIN.fullmatch(url)
    return "" if found is None else found[1].lower()


def _is_page_here(url: str) -> bool:
    found = _ORIGIN.fullmatch(url)
    return found is not None and _is_here(found[2])

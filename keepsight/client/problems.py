"""Converts failed requests to the client's errors."""

from __future__ import annotations

import httpx

from keepsight.client.errors import ApiError, ServiceUnreachableError


def api_error(response: httpx.Response) -> ApiError:
    """Return the error that a response reports."""
    try:
        problem = response.json()
    except ValueError:
        problem = None
    if not isinstance(problem, dict):
        problem = {}
    detail = problem.get("detail") or problem.get("title")
    if not isinstance(detail, str):
        detail = f"the service answered {response.status_code} {response.reason_phrase}"
    return ApiError(response.status_code, detail.strip().removesuffix("."), problem=problem)


def unreachable(error: Exception, url: str, request: str) -> ServiceUnreachableError:
    """Return the error for a `request` (a method and a route) that got no response."""
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
        return ServiceUnreachableError(f"nothing answers at {url}")
    if isinstance(error, httpx.TimeoutException):
        return ServiceUnreachableError(f"{url} did not answer {request} in time", connected=True)
    reason = str(error) or type(error).__name__
    return ServiceUnreachableError(f"the connection to {url} broke during {request} ({reason})", connected=True)

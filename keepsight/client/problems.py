"""From what went wrong with a request to the error that says so."""

from __future__ import annotations

import httpx

from keepsight.client.errors import ApiError, ServiceUnreachableError


def api_error(response: httpx.Response) -> ApiError:
    """The error that a response reports."""
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
    """Why there is no response at all to `request`, a method and a route."""
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
        return ServiceUnreachableError(f"nothing answers at {url}")
    if isinstance(error, httpx.TimeoutException):
        return ServiceUnreachableError(f"{url} did not answer {request} in time", connected=True)
    reason = str(error) or type(error).__name__
    return ServiceUnreachableError(f"the connection to {url} broke during {request} ({reason})", connected=True)

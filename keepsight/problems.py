"""What went wrong with a request, as one of our errors with one sentence."""

from __future__ import annotations

import httpx

from keepsight.errors import ApiError, ServiceUnreachableError


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
        detail = f"The service answered {response.status_code} {response.reason_phrase}"
    sentence = detail.rstrip()
    if not sentence.endswith((".", "!", "?")):
        sentence += "."
    if response.status_code in (401, 403):
        sentence += " Give a key with --api-key or KEEPSIGHT_API_KEY."
    return ApiError(response.status_code, sentence, problem=problem)


def unreachable(error: Exception, url: str, request: str) -> ServiceUnreachableError:
    """Why there is no response at all to `request`, a method and a route."""
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
        return ServiceUnreachableError(
            f"Nothing answers at {url}; start the service with `keepsight up`, or name another "
            "address with --url or KEEPSIGHT_URL."
        )
    if isinstance(error, httpx.TimeoutException):
        return ServiceUnreachableError(f"{url} did not answer {request} in time.")
    reason = str(error) or type(error).__name__
    return ServiceUnreachableError(f"The connection to {url} broke during {request} ({reason}).")

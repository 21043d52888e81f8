"""A service that lives in a function, and the command line run in this process."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from keepsight.cli import main as cli
from keepsight.cli import options
from keepsight.client import Client
from keepsight.client.async_client import AsyncClient
from keepsight.client.retries import Retries

VALIDATION = {"classes": {"cat": 2, "dog": 1}, "accepted": 3, "rejected": [], "rejected_count": 0}
STEADY = Retries(jitter=lambda: 0.0)
"""The policy without chance: waits of 0.25, 0.5 and 1 second."""


def a_job(**changes: Any) -> dict[str, Any]:
    """A job as the service describes it."""
    return {
        "job_id": "j1",
        "name": "pets",
        "state": "queued",
        "progress": None,
        "result": None,
        "error": None,
        "validation": VALIDATION,
        "created_at": "2026-01-02T03:04:05+00:00",
        "started_at": None,
        "finished_at": None,
        "attempts": 1,
        **changes,
    }


def finished_job(**changes: Any) -> dict[str, Any]:
    """The same job after it went well."""
    evaluation = {
        "seen_classes": 2,
        "overall": {"images": 4, "text": 0.5, "visual": 0.75, "fused": 1.0},
        "per_class": {},
    }
    result = {
        "version_id": "000002-0123456789ab",
        "promoted": True,
        "not_promoted_because": None,
        "evaluation": evaluation,
        "report": {},
    }
    return a_job(state="succeeded", result=result, **changes)


@dataclass
class FakeService:
    """Answers like the REST API. `script` overrides routes: "METHOD /path" to a response or a list of them in turn."""

    requests: list[httpx.Request] = field(default_factory=list)
    script: dict[str, Any] = field(default_factory=dict)
    slept: list[float] = field(default_factory=list)

    def __call__(self, request: httpx.Request) -> httpx.Response:
        request.read()
        self.requests.append(request)
        key = f"{request.method} {request.url.path}"
        if key in self.script:
            answer = self.script[key]
            if isinstance(answer, list):
                answer = answer.pop(0) if len(answer) > 1 else answer[0]
            if isinstance(answer, Exception):
                raise answer
            if isinstance(answer, httpx.Response):  # a new one every time, because a response can be read once
                return httpx.Response(answer.status_code, headers=answer.headers, content=answer.content)
            return httpx.Response(200, json=answer)
        return httpx.Response(404, json={"title": "Not Found", "status": 404, "detail": f"there is no {key}"})

    def client(self, *, retries: Retries = STEADY, **changes: Any) -> Client:
        """A client whose network is this service, and which never really waits."""
        network = httpx.MockTransport(self)
        return Client("http://fake", retries=retries, transport=network, sleep=self.slept.append, **changes)

    def async_client(self, *, retries: Retries = STEADY, **changes: Any) -> AsyncClient:
        """The same, to be awaited."""

        async def sleep(seconds: float) -> None:
            self.slept.append(seconds)

        network = httpx.MockTransport(self)
        return AsyncClient("http://fake", retries=retries, transport=network, sleep=sleep, **changes)

    def problem(self, status: int, detail: str, **headers: str) -> httpx.Response:
        """RFC 9457 problem details."""
        document = {"type": "about:blank", "title": "Refused", "status": status, "detail": detail}
        headers = {"content-type": "application/problem+json", **headers}
        return httpx.Response(status, content=json.dumps(document), headers=headers)


@dataclass(frozen=True)
class Ran:
    """How a command ended and what it printed."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """stdout, which must be one JSON document."""
        return json.loads(self.out)


RunCli = Callable[..., Ran]


@pytest.fixture
def service() -> FakeService:
    return FakeService()


@pytest.fixture
def run_cli(
    service: FakeService, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Ran]:
    """Run the command line against the fake service."""
    for name in ("KEEPSIGHT_URL", "KEEPSIGHT_API_KEY", "KEEPSIGHT_DEBUG", "KEEPSIGHT_STORE", "KEEPSIGHT_KEYS_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("signal.signal", lambda number, handler: None)  # this process keeps its own
    monkeypatch.setattr(options, "connect", lambda url, api_key: service.client(api_key=api_key))

    def run(*arguments: str) -> Ran:
        monkeypatch.setattr(sys, "argv", ["keepsight", *arguments])
        code = 0
        try:
            cli.main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
        printed = capsys.readouterr()
        return Ran(code, printed.out, printed.err)

    return run


@pytest.fixture
def make_job() -> Callable[..., dict[str, Any]]:
    return a_job


@pytest.fixture
def make_finished_job() -> Callable[..., dict[str, Any]]:
    return finished_job

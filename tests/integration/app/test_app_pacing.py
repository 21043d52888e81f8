"""A server holds the refusals of an address back once they come too fast; answers to others and to it go on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest
from starlette.testclient import TestClient

from app.main import create_app
from app.pacing import LONGEST_S, Pace
from app.settings import Settings
from model_store.types import VersionId
from tests.integration.app.conftest import LOCAL, Configure

MANY = 8
HELD_IN_ALL_S = 0.25 + 3 * LONGEST_S
"""Those beyond the first four wait for a quarter of a second more each, and for half a second at most."""


@pytest.fixture
def client(
    configure: Configure, teach: Callable[..., VersionId], monkeypatch: pytest.MonkeyPatch
) -> Iterator[TestClient]:
    """A server that refuses four times a second at once, and thinks all is in one moment, however slow the machine is.

    It is asked from an address of a network.
    """
    monkeypatch.setattr("app.main.Pace", lambda per_s: Pace(per_s, clock=lambda: 0.0))
    settings: Settings = configure(refusals_per_s=4.0)
    teach("cat", "dog")
    with TestClient(create_app(settings), base_url=LOCAL, client=("127.0.0.1", 5)) as client:
        yield client


def _held(client: TestClient) -> float:
    lines = client.get("/metrics").text.splitlines()
    return next(float(line.split()[-1]) for line in lines if line.startswith("keepsight_refusals_held_total"))


def _seconds(client: TestClient, ask: Callable[[], int], status: int) -> float:
    begun = time.monotonic()
    assert {ask() for _ in range(MANY)} == {status}
    return time.monotonic() - begun


def test_refusals_come_at_their_rate_and_answers_as_ever(client: TestClient, picture: Callable[..., bytes]) -> None:
    refused = _seconds(client, lambda: client.post("/v1/classify", json={"images": 7}).status_code, 422)
    assert _held(client) == MANY - 4
    assert refused >= HELD_IN_ALL_S - 0.1
    before = _held(client)
    image = picture()
    assert client.post("/v1/classify", files={"images": image}).json()["results"][0]["predictions"]
    _seconds(client, lambda: client.post("/v1/classify", files={"images": image}).status_code, 200)
    assert _held(client) == before


def test_answers_without_one_image_that_can_be_decoded_are_refusals(
    client: TestClient, picture: Callable[..., bytes]
) -> None:
    broken = [("images", ("a.png", b"no image", "image/png"))]
    _seconds(client, lambda: client.post("/v1/classify", files=broken).status_code, 200)
    held = _held(client)
    assert held == MANY - 4
    both = [*broken, ("images", ("b.png", picture(), "image/png"))]
    _seconds(client, lambda: client.post("/v1/classify", files=both).status_code, 200)
    assert _held(client) == held


def test_the_time_for_which_an_answer_was_held_is_not_the_server_s(client: TestClient) -> None:
    for _ in range(MANY):
        client.get("/v1/jobs/nothing")
    assert _held(client) == MANY - 4
    name = 'keepsight_request_seconds_sum{route="/v1/jobs/{job_id}"}'
    total = next(line for line in client.get("/metrics").text.splitlines() if line.startswith(name))
    assert float(total.split()[-1]) < 0.25, "one hold is longer than that"

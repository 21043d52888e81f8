"""Clients that hang up, over real sockets: what they asked for is not run, and nobody else notices."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Callable

import httpx
import pytest
from starlette.testclient import TestClient
from torch import Tensor

from app.settings import Settings
from model_store.types import VersionId
from segp_cl.runtime.classifier import Classifier, Features
from tests.waiting import wait_until

Picture = Callable[..., bytes]


class Held:
    """Stands in for the model's pass: counts images, and waits until it is let go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.images: list[int] = []
        self.begun = threading.Event()
        self.go = threading.Event()
        features = Classifier.features

        def held(classifier: Classifier, pixels: Tensor) -> Features:
            self.images.append(len(pixels))
            self.begun.set()
            assert self.go.wait(30)
            return features(classifier, pixels)

        monkeypatch.setattr(Classifier, "features", held)


def metric(url: str, name: str) -> float:
    lines = httpx.get(f"{url}/metrics").text.splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(f"{name} "))


@pytest.mark.parametrize("labels", [[], ["cat", "dog"]], ids=["classes", "labels"])
def test_a_client_that_hung_up_costs_no_forward_pass(
    labels: list[str],
    client: TestClient,
    teach: Callable[..., VersionId],
    caplog: pytest.LogCaptureFixture,
    configure: Callable[..., Settings],
    listen: Callable[[Settings], str],
    picture: Picture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    teach("cat", "dog")
    url = listen(configure())
    httpx.get(f"{url}/readyz").raise_for_status()
    held = Held(monkeypatch)

    def ask(*images: bytes) -> httpx.Response:
        files = [("images", image) for image in images]
        return httpx.post(f"{url}/v1/classify", files=files, data={"labels": labels}, timeout=30)

    answers: list[httpx.Response] = []
    first = threading.Thread(target=lambda: answers.append(ask(picture(1))))
    first.start()
    assert held.begun.wait(20)

    body = httpx.Request("POST", url, files=[("images", picture(n)) for n in range(2, 9)], data={"labels": labels})
    leaving = http.client.HTTPConnection(url.removeprefix("http://"))
    leaving.request("POST", "/v1/classify", body.read(), {"Content-Type": body.headers["content-type"]})
    wait_until(lambda: metric(url, "keepsight_inference_queue") == 7)
    leaving.close()
    wait_until(lambda: metric(url, "keepsight_requests_in_hand") == 1)
    assert metric(url, "keepsight_inference_queue") == 0

    held.go.set()
    first.join(20)
    assert [answer.status_code for answer in answers] == [200]
    assert ask(picture(9)).status_code == 200
    assert held.images == [1, 1]
    assert metric(url, "keepsight_requests_in_hand") == 0
    assert "Task" not in caplog.text  # no task was left to complain of an exception that nobody took

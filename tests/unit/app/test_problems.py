from __future__ import annotations

import inspect
import json
from collections.abc import Iterator

import pytest
from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.testclient import TestClient

import app.errors
import exchange.jobs
import exchange.redis_client
import exchange.rollout
import exchange.spool
import model_store.types
import segp_cl.errors
import segp_cl.runtime.golden
from app.errors import AppError
from app.problems import TABLE, answer_for, install, problem, problem_of, response_for
from model_store.types import CorruptVersionError, VersionNotFoundError
from segp_cl.errors import ImageDecodeError, KeepsightError


def family() -> Iterator[type[Exception]]:
    """Every public error of the packages that the server stands on."""
    store = (exchange.jobs, exchange.redis_client, exchange.rollout, exchange.spool, model_store.types)
    for module in (app.errors, *store, segp_cl.runtime.golden, segp_cl.errors):
        for _, kind in inspect.getmembers(module, inspect.isclass):
            if issubclass(kind, KeepsightError):
                yield kind


def test_every_error_of_the_family_has_an_answer() -> None:
    for kind in family():
        error = kind.__new__(kind)
        assert 400 <= answer_for(error).status < 600, kind


def test_only_bugs_and_broken_stores_are_500() -> None:
    blamed = {kind.__name__ for kind in family() if answer_for(kind.__new__(kind)).status == 500}
    assert blamed <= {
        "AppError", "KeepsightError", "StoreError", "InvalidStateError", "SpoolError", "JobExistsError",
        "InferenceError", "ModelLoadError", "UnsupportedArchitectureError", "RolloutError",
    }  # fmt: skip


def test_slugs_and_titles_are_one_to_one() -> None:
    titles = {(answer.slug, answer.title) for answer in TABLE.values()}
    assert len({slug for slug, _ in titles}) == len(titles) == len({title for _, title in titles})


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (VersionNotFoundError("000001-0123456789ab"), 404),
        (CorruptVersionError("000001-0123456789ab", "manifest.json", "bad"), 409),
        (ImageDecodeError("no"), 422),
    ],
)
def test_problems_say_what_the_error_says(error: Exception, status: int) -> None:
    document = problem_of(error)
    assert (document["status"], document["detail"]) == (status, str(error))


def test_a_subclass_is_answered_like_its_parent() -> None:
    class SpecialError(VersionNotFoundError):
        pass

    assert answer_for(SpecialError("x")) == TABLE[VersionNotFoundError]


def test_what_is_not_ours_is_not_told() -> None:
    document = problem_of(RuntimeError("the password is hunter2"))
    assert document["status"] == 500
    assert "hunter2" not in json.dumps(document)


def test_extensions_never_displace_standard_members() -> None:
    assert problem(404, "x", "t", "d", status=200, more=1) == {
        "type": "urn:keepsight:problem:x", "title": "t", "status": 404, "detail": "d", "more": 1,
    }  # fmt: skip
    assert problem_of(AppError("x", extensions={"a": 1}))["a"] == 1


def test_headers_follow_the_status() -> None:
    assert response_for(app.errors.UnauthorizedError("x")).headers["www-authenticate"].startswith("Bearer")
    assert response_for(app.errors.BusyError("x")).headers["retry-after"] == "1"
    assert response_for(exchange.redis_client.BrokerUnavailableError("x")).headers["retry-after"] == "5"


def test_http_exceptions_keep_their_headers() -> None:
    api = FastAPI()
    install(api)

    @api.get("/teapot")
    def teapot() -> None:
        raise HTTPException(418, "short and stout", headers={"X-Spout": "yes"})

    response = TestClient(api).get("/teapot")
    assert (response.status_code, response.headers["x-spout"]) == (418, "yes")
    assert response.json()["detail"] == "short and stout"

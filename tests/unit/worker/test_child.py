from __future__ import annotations

import errno
import io
import json
from collections.abc import Callable

import pytest
import torch

from exchange.contracts import JobRecord
from model_store.types import StoreFullError
from segp_cl.types import Progress
from worker import pipeline
from worker.child import Channel, carry_out, describe
from worker.messages import Failed, Order
from worker.settings import WorkerSettings


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (StoreFullError("no space is left"), "StoreFullError", "no space is left"),
        (OSError(errno.ENOSPC, "No space left on device"), "DiskFullError", "disk is full"),
        (MemoryError(), "OutOfMemoryError", "more memory"),
        (torch.OutOfMemoryError("CUDA out of memory"), "OutOfMemoryError", "smaller batch_size"),
        (ValueError("secret details"), "InternalError", "the worker's log has the details"),
    ],
)
def test_every_error_becomes_one_sentence(error: Exception, kind: str, words: str) -> None:
    answer = describe(error)
    assert answer.kind == kind
    assert words in answer.message
    assert "secret" not in answer.message


def test_losses_that_are_not_finite_are_left_out() -> None:
    out = io.StringIO()
    Channel(io.StringIO(), out).step(Progress("train", 1, 2, {"total": float("nan"), "acgd": 0.5}))
    assert json.loads(out.getvalue()) == {
        "kind": "step", "phase": "train", "step": 1, "steps": 2, "losses": {"acgd": 0.5},
    }  # fmt: skip


def test_an_unexpected_error_is_logged_in_full_and_answered_in_general(
    submit: Callable[[], JobRecord],
    settings: WorkerSettings,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def explode(*_: object, **__: object) -> None:
        raise ZeroDivisionError("the details")

    monkeypatch.setattr(pipeline, "run_update", explode)
    answer = carry_out(Order(job=submit().job, settings=settings), Channel(io.StringIO(), io.StringIO()))
    assert isinstance(answer, Failed)
    assert answer.error.kind == "InternalError"
    assert "ZeroDivisionError: the details" in caplog.text
    assert "Traceback" in caplog.text

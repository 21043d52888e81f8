"""`keepsight.Client` and `keepsight.AsyncClient` against a server on a socket, and the types that they promise."""

from __future__ import annotations

import asyncio
import io
import re
import threading
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from app import schemas
from app.settings import Settings
from exchange.contracts import GateCheck, GateResult, JobProgress, JobState, UpdateOutcome, ValidationReport, utc_now
from exchange.jobs import Jobs
from keepsight import ApiError, AsyncClient, Client
from keepsight.client import api
from model_store.store import Store
from model_store.types import ClassRecord, DatasetRecord, Manifest, VersionId
from tests.docs.markdown import DOCS, blocks, section
from tests.tolerances import FLOAT32_REORDERED

Teach = Callable[..., VersionId]
Picture = Callable[..., bytes]
Archive = Callable[[Mapping[str, int]], bytes]
PAGE = DOCS / "api.md"
EXAMPLES = [b.text for b in blocks(PAGE) if b.language == "python" and b.text in section(PAGE, "## From Python")]
TYPES = [
    (api.Problem, schemas.Problem),
    (api.Prediction, schemas.Prediction),
    (api.ImageResult, schemas.ClassifyResult),
    (api.Classification, schemas.ClassifyAnswer),
    (api.Embedding, schemas.Embedding),
    (api.Usage, schemas.Usage),
    (api.Embeddings, schemas.Embeddings),
    (api.Validation, ValidationReport),
    (api.Accepted, schemas.TaskAccepted),
    (api.JobProgress, schemas.JobProgressView),
    (api.GateCheck, GateCheck),
    (api.GateResult, GateResult),
    (api.JobResult, UpdateOutcome),
    (api.Job, schemas.JobView),
    (api.VersionSummary, schemas.VersionSummary),
    (api.Versions, schemas.VersionList),
    (api.LearnedClass, ClassRecord),
    (api.Classes, schemas.ClassList),
    (api.Dataset, DatasetRecord),
    (api.Manifest, Manifest),
    (api.Moved, schemas.Moved),
    (api.ServingProcess, schemas.ServerProcess),
    (api.Rollout, schemas.Rollout),
    (api.Gate, schemas.Gate),
]


@pytest.fixture
def url(configure: Callable[..., Settings], listen: Callable[[Settings], str]) -> str:
    """A server on `store`."""
    return listen(configure())


@pytest.fixture
def store(configure: Callable[..., Settings]) -> Store:
    return Store(configure().store)


def work(redis_url: str, job_id: str) -> None:
    """Do a job as a worker would, as far as anybody can see from outside."""
    jobs = Jobs(redis_url)
    assert jobs.claim(job_id, owner="w") is None
    progress = JobProgress(phase="train", step=1, steps=2, losses={}, eta_s=1.0, elapsed_s=1, updated_at=utc_now())
    assert jobs.save_progress(job_id, progress, owner="w")
    outcome = UpdateOutcome(version_id="000002-0123456789ab", promoted=True)
    jobs.finish(job_id, JobState.SUCCEEDED, outcome=outcome)


@pytest.mark.parametrize(("ours", "theirs"), TYPES, ids=[ours.__name__ for ours, _ in TYPES])
def test_the_types_of_answers_have_the_servers_fields(ours: Any, theirs: type[BaseModel]) -> None:
    sent = {field.serialization_alias or field.alias or name for name, field in theirs.model_fields.items()}
    promised = {name for name, hint in typing.get_type_hints(ours, include_extras=True).items() if not _optional(hint)}
    assert promised <= sent <= ours.__annotations__.keys()


def _optional(hint: Any) -> bool:
    return typing.get_origin(hint) is typing.NotRequired


def test_the_client_teaches_classifies_embeds_and_moves(
    url: str, teach: Teach, picture: Picture, archive: Archive, redis_url: str, tmp_path: Path
) -> None:
    first, second = teach("cat", "dog"), teach("cat", "dog", seed=1)
    (tmp_path / "cat.png").write_bytes(picture(1))
    with Client(url) as client:
        moved = client.rollback(reason="worse", expected=second)
        assert (moved["from"], moved["to"], moved["serving"]) == (second, first, first)
        with pytest.raises(ApiError) as caught:
            client.promote(second, expected=second)
        assert (caught.value.status, caught.value.problem["type"]) == (409, "urn:keepsight:problem:pointer-moved")
        assert client.promote(second, expected=first)["serving"] == second
        assert client.ready()
        assert [process["serving"] for process in client.rollout()["processes"]] == [second]
        assert client.version(second)["parent"] == first
        assert [version["version_id"] for version in client.versions()["versions"]][1:] == [first, second]
        assert [found["name"] for found in client.classes()["classes"]] == ["cat", "dog"]

        answer = client.classify([tmp_path / "cat.png", picture(2), ("x", b"none")], top_k=1, timeout_ms=20_000)
        assert (answer["model_version"], answer["path"]) == (second, "fused")
        assert [result["filename"] for result in answer["results"]] == ["cat.png", "image", "x"]
        assert [result["error"] is None for result in answer["results"]] == [True, True, False]
        vectors = client.embeddings(["a cat.", tmp_path / "cat.png"], stored_version=first)
        assert [sum(x * x for x in vector["embedding"]) for vector in vectors["data"]] == pytest.approx(
            [1.0, 1.0], abs=FLOAT32_REORDERED
        )
        assert vectors["matches_stored"] is True

        accepted = client.teach(io.BytesIO(archive({"cow": 2})), name="more", template="a {}.", seed=3)
        assert accepted["validation"]["accepted"] == 2
        worker = threading.Thread(target=work, args=(redis_url, accepted["job_id"]))
        seen: list[str] = []
        for job in client.follow(accepted["job_id"]):
            if not seen:
                worker.start()
            seen.append(job["state"])
        worker.join()
        assert (seen[0], seen[-1]) == ("queued", "succeeded")
        assert client.jobs()[0]["job_id"] == accepted["job_id"]


def test_the_async_client_does_many_things_at_the_same_time(
    url: str, teach: Teach, picture: Picture, tmp_path: Path
) -> None:
    version = teach("cat", "dog")
    (tmp_path / "photos" / "cow").mkdir(parents=True)
    (tmp_path / "photos" / "cow" / "1.png").write_bytes(picture(3))

    async def run() -> list[str]:
        async with AsyncClient(url) as client:
            await client.promote(version, expected=version)
            answers = await asyncio.gather(*(client.classify([picture(n)]) for n in range(8)))
            assert {answer["model_version"] for answer in answers} == {version}
            vectors = await client.embeddings(("a cat.", picture(1)))
            assert [vector["index"] for vector in vectors["data"]] == [0, 1]
            accepted, versions = await asyncio.gather(client.teach(tmp_path / "photos", name="more"), client.versions())
            assert versions["serving"] == version
            assert accepted["validation"]["classes"] == {"cow": 1}
            seen: list[str] = []
            async for job in client.follow(accepted["job_id"]):
                seen.append(job["state"])
                if job["state"] == "queued":
                    assert (await client.cancel(accepted["job_id"]))["cancel_requested"]
            with pytest.raises(ApiError) as caught:
                await client.job("nope")
            assert caught.value.status == 404
            return seen

    seen = asyncio.run(run())
    assert (seen[0], seen[-1]) == ("queued", "cancelled")


def test_the_examples_in_python_run(
    url: str,
    store: Store,
    teach: Teach,
    picture: Picture,
    redis_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    teach("cat")
    version = teach("cat", "dog")
    for name in ("cat/1.jpg", "dog/1.jpg"):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True)
        path.write_bytes(picture(1, kind="JPEG"))
    monkeypatch.chdir(tmp_path)
    with Client(url) as client:
        client.promote(version, expected=version)  # the server serves it when this returns
    ended = threading.Event()
    worker = threading.Thread(target=work_on_whatever_comes, args=(url, redis_url, ended))
    worker.start()
    try:
        for example in EXAMPLES:
            exec(compile(re.sub(r"http://127\.0\.0\.1:8000", url, example), "api.md", "exec"), {"__name__": "__main__"})
    finally:
        ended.set()
        worker.join()
    assert len(EXAMPLES) == 2
    printed = capsys.readouterr().out
    assert "succeeded" in printed
    assert version in printed


def work_on_whatever_comes(url: str, redis_url: str, ended: threading.Event) -> None:
    """A worker, until the end."""
    with Client(url) as client:
        while not ended.wait(0.1):
            for job in client.jobs():
                if job["state"] == "queued":
                    work(redis_url, job["job_id"])

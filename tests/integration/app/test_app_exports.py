"""Versions as files: with the answers of the service, and none of its ways of being held up."""

from __future__ import annotations

import asyncio
import importlib.util
import io
import json
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import onnxruntime
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from starlette.testclient import TestClient

from app import exports
from app.settings import Settings
from keepsight.client import ApiError, AsyncClient, Client, DownloadError
from model_store.store import Store
from model_store.types import Provenance, VersionId
from segp_cl.data.preprocessing import to_pixels
from segp_cl.models.backbone import Backbone
from segp_cl.runtime.classifier import Classifier
from segp_cl.runtime.golden import record

Teach = Callable[..., VersionId]
Configure = Callable[..., Settings]


def kind(answer: object) -> tuple[int, str]:
    return answer.status_code, answer.json()["type"].rpartition(":")[2]  # type: ignore[attr-defined]


def test_a_version_leaves_as_it_is_with_its_manifest(
    client: TestClient, store: Store, teach: Teach, tmp_path: Path
) -> None:
    version = teach("cat", "dog")
    answer = client.get(f"/v1/versions/{version}/export")
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-disposition"] == f'attachment; filename="{version}.safetensors"'
    assert int(answer.headers["content-length"]) == len(answer.content)
    assert "keepsight-difference" not in answer.headers
    path = tmp_path / "version.safetensors"
    path.write_bytes(answer.content)
    with safe_open(path, "pt") as file:
        assert file.metadata()["manifest"] == (store.root / "versions" / version / "manifest.json").read_text()
        assert torch.equal(file.get_tensor("prototypes"), store.open(version).prototypes)
        assert set(file.keys()) == {"prototypes", "text_features"}


def test_an_onnx_model_gives_the_answers_of_the_service(
    client: TestClient, store: Store, teach: Teach, picture: Callable[..., bytes], tiny_backbone: Backbone
) -> None:
    version = teach("cat", "dog", "owl")
    client.post("/v1/admin/promote", json={"version_id": version})
    answer = client.get(f"/v1/versions/{version}/export", params={"format": "onnx"})
    assert answer.status_code == 200, answer.text
    assert float(answer.headers["keepsight-difference"]) < 1e-4
    session = onnxruntime.InferenceSession(answer.content, providers=["CPUExecutionProvider"])
    about = session.get_modelmeta().custom_metadata_map
    labels = json.loads(about["labels"])
    assert (about["version_id"], labels) == (version, ["cat", "dog", "owl"])
    assert str(Path(__file__).parents[3]).encode() not in answer.content  # no paths of this machine
    data = picture(3)
    pixels = to_pixels(Image.open(io.BytesIO(data)), tiny_backbone.preprocessing)[None].numpy()
    found = dict(zip(labels, session.run(["probabilities"], {"pixels": pixels})[0][0], strict=True))
    served = client.post("/v1/classify", files={"images": ("a.png", data)}).json()
    assert served["model_version"] == version
    for prediction in served["results"][0]["predictions"]:
        assert found[prediction["label"]] == pytest.approx(prediction["probability"], abs=1e-5)


def test_what_cannot_be_exported_is_refused(
    client: TestClient, store: Store, teach: Teach, tiny_backbone: Backbone
) -> None:
    first = store.current()
    onnx = {"format": "onnx"}
    assert kind(client.get(f"/v1/versions/{first}/export", params=onnx)) == (409, "no-classes")
    assert kind(client.get("/v1/versions/000099-0123456789ab/export")) == (404, "version-not-found")
    assert kind(client.get("/v1/versions/000099-0123456789ab/export", params=onnx)) == (404, "version-not-found")
    assert kind(client.get(f"/v1/versions/{first}/export", params={"format": "pickle"})) == (422, "invalid-request")
    version = teach("cat")
    state = store.open(version)
    foreign = store.publish(replace(state, weights_digest="0" * 64), parent=None, provenance=Provenance()).version_id
    assert kind(client.get(f"/v1/versions/{foreign}/export", params=onnx)) == (409, "version-incompatible")
    other = record(Classifier(tiny_backbone, store.open(teach("cat", seed=9))), tiny_backbone.preprocessing.size)
    wrong = store.publish(state, parent=version, provenance=Provenance(), golden=other).version_id
    assert kind(client.get(f"/v1/versions/{wrong}/export", params=onnx)) == (409, "version-check-failed")
    path = store.root / "versions" / version / "tensors.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\1")
    assert kind(client.get(f"/v1/versions/{version}/export", params=onnx)) == (409, "version-corrupt")
    assert kind(client.get(f"/v1/versions/{version}/export")) == (409, "version-corrupt")


def test_a_missing_extra_is_named_with_the_command_that_installs_it(
    client: TestClient, teach: Teach, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = teach("cat")
    there = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxscript" else there(name))
    answer = client.get(f"/v1/versions/{version}/export", params={"format": "onnx"})
    assert kind(answer) == (501, "export-unavailable")
    assert (
        answer.json()["detail"] == "exports to ONNX need onnxscript; install the extra: pip install 'keepsight[onnx]'"
    )
    assert client.get(f"/v1/versions/{version}/export").status_code == 200


def test_an_export_that_takes_too_long_or_is_killed_is_an_error(
    configure: Configure, serve: Callable[[Settings], TestClient], teach: Teach, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = configure(export_timeout_s=1.0)
    client = serve(settings)
    version = teach("cat")
    asked = f"/v1/versions/{version}/export?format=onnx"
    monkeypatch.setattr(exports, "COMMAND", ("sh", "-c", "sleep 60"))
    assert kind(client.get(asked)) == (504, "deadline-exceeded")
    monkeypatch.setattr(exports, "COMMAND", ("sh", "-c", "kill -9 $$"))
    answer = client.get(asked)
    assert kind(answer) == (409, "export-failed")
    assert "status -9" in answer.json()["detail"]
    assert list(settings.spool.iterdir()) == []


def test_a_process_that_needs_too_much_memory_says_so(
    configure: Configure, serve: Callable[[Settings], TestClient], teach: Teach
) -> None:
    settings = configure(max_export_bytes=512 * 1024 * 1024).model_copy(update={"max_export_bytes": 1024 * 1024})
    answer = serve(settings).get(f"/v1/versions/{teach('cat')}/export?format=onnx")
    assert kind(answer) == (409, "export-failed")
    assert "KEEPSIGHT_MAX_EXPORT_BYTES" in answer.json()["detail"]


def test_both_clients_write_files_that_are_whole_or_not_there(
    configure: Configure, listen: Callable[[Settings], str], store: Store, teach: Teach, tmp_path: Path
) -> None:
    url = listen(configure())
    version = teach("cat", "dog")
    seen: list[tuple[int, int]] = []
    with Client(url) as client:
        made = client.export(version, tmp_path, on_bytes=lambda received, size: seen.append((received, size)))
        assert made.path == tmp_path / f"{version}.safetensors"
        assert (made.bytes, made.difference) == (made.path.stat().st_size, None)
        assert seen[-1] == (made.bytes, made.bytes)
        with pytest.raises(DownloadError, match="cannot be written"):
            client.export(version, tmp_path / "no folder" / "a.onnx")
        with pytest.raises(ApiError) as refused:
            client.export("000099-0123456789ab", tmp_path / "b.safetensors")
        assert refused.value.status == 404

    async def run() -> None:
        async with AsyncClient(url) as other:
            onnx = await other.export(version, tmp_path / "c.onnx", form="onnx")
            assert onnx.difference is not None
            assert onnx.difference < 1e-4

    asyncio.run(run())
    assert [*tmp_path.rglob("*.part")] == []
    assert {path.name for path in (*tmp_path.glob("*.onnx"), *tmp_path.glob("*.safetensors"))} == {
        "c.onnx",
        f"{version}.safetensors",
    }


def test_answers_go_on_while_a_version_is_exported(
    configure: Configure, listen: Callable[[Settings], str], teach: Teach, picture: Callable[..., bytes], tmp_path: Path
) -> None:
    url = listen(configure())
    version = teach("cat", "dog")
    with Client(url) as client:
        client.promote(version)
        exported: list[float | None] = []
        thread = threading.Thread(
            target=lambda: exported.append(client.export(version, tmp_path, form="onnx").difference)
        )
        thread.start()
        answered = 0
        while thread.is_alive():
            assert client.classify([picture(answered)])["model_version"] == version
            answered += 1
        thread.join()
    assert exported
    assert answered > 5

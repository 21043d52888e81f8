"""What is true of every route: keys, problems, health, metrics, documentation."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient
from torch import Tensor

from app.main import create_app
from app.settings import Settings
from app.startup import StartupError
from keepsight.keys import KeyFile
from model_store.store import Store
from model_store.types import VersionId
from segp_cl.runtime.classifier import Classifier, Features
from segp_cl.runtime.hardware import DeviceNotFoundError
from segp_cl.types import ModelSpec
from tests.waiting import wait_until

Configure = Callable[..., Settings]
Serve = Callable[[Settings], TestClient]
Picture = Callable[..., bytes]

PROTECTED = [
    ("POST", "/v1/classify", "classify"),
    ("POST", "/v1/embeddings", "classify"),
    ("POST", "/v2/models/m/infer", "classify"),
    ("POST", "/v2/models/m/versions/x/infer", "classify"),
    ("POST", "/v1/tasks", "train"),
    ("POST", "/v1/versions/merge", "train"),
    ("POST", "/v1/classes/merge", "train"),
    ("POST", "/v1/classes/preview", "train"),
    ("POST", "/v1/classes/x/replace", "train"),
    ("PATCH", "/v1/classes/x", "train"),
    ("DELETE", "/v1/classes/x", "train"),
    ("POST", "/v1/evaluations", "train"),
    ("PUT", "/v1/test-sets/x", "admin"),
    ("DELETE", "/v1/test-sets/x", "admin"),
    ("POST", "/v1/corrections", "train"),
    ("GET", "/v1/corrections", "train"),
    ("DELETE", "/v1/corrections", "train"),
    ("POST", "/v1/corrections/learn", "train"),
    ("DELETE", "/v1/corrections/x", "train"),
    ("GET", "/v1/jobs", "train"),
    ("GET", "/v1/jobs/x", "train"),
    ("GET", "/v1/jobs/x/events", "train"),
    ("DELETE", "/v1/jobs/x", "train"),
    ("POST", "/v1/versions/x/pin", "admin"),
    ("DELETE", "/v1/versions/x/pin", "admin"),
    ("POST", "/v1/versions/x/verify", "admin"),
    ("GET", "/v1/versions/x/export", "admin"),
    ("POST", "/v1/admin/prune", "admin"),
    ("POST", "/v1/admin/promote", "admin"),
    ("POST", "/v1/admin/rollback", "admin"),
    ("GET", "/v1/admin/rollout", "admin"),
    ("GET", "/v1/admin/gate", "admin"),
    ("GET", "/v1/admin/backup", "admin"),
    ("PATCH", "/v1/admin/gate", "admin"),
]
ANY_KEY = [
    ("GET", "/v1/versions"),
    ("GET", "/v1/versions/x"),
    ("GET", "/v1/versions/x/contributions"),
    ("GET", "/v1/versions/x/classes"),
    ("GET", "/v1/versions/x/report"),
    ("GET", "/v1/versions/x/test-sets/m"),
    ("GET", "/v1/versions/a/compare/b"),
    ("GET", "/v1/test-sets"),
    ("GET", "/v1/test-sets/x"),
    ("GET", "/v1/classes"),
    ("GET", "/v2"),
    ("GET", "/v2/models/m"),
    ("GET", "/v2/models/m/ready"),
    ("GET", "/v2/models/m/versions/x"),
    ("GET", "/v2/models/m/versions/x/ready"),
]
OPEN = ["/healthz", "/readyz", "/metrics", "/v2/health/live", "/v2/health/ready", "/openapi.json", "/docs"]


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def test_every_route_is_either_protected_or_known_to_be_open(client: TestClient) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    documented = {(method.upper(), path) for path, methods in paths.items() for method in methods}
    known = [*((m, p) for m, p, _ in PROTECTED), *ANY_KEY, *(("GET", p) for p in OPEN[:5])]
    assert documented == {(method, templated(path)) for method, path in known}


def templated(path: str) -> str:
    known = {"jobs": "job_id", "corrections": "number", "test-sets": "name", "classes": "name"}
    below = "" if "/versions/" in path else path
    kind = next((name for part, name in known.items() if f"/{part}/" in below), "version_id")
    path = re.sub("/x(?=/|$)", f"/{{{kind}}}", path).replace("/a/compare/b", "/{a}/compare/{b}")
    return re.sub("/(models|test-sets)/m", r"/\1/{name}", path)


@pytest.mark.parametrize(("method", "path", "scope"), PROTECTED)
def test_a_route_wants_its_own_scope_and_no_other(
    client: TestClient, configure: Configure, method: str, path: str, scope: str
) -> None:
    keys = KeyFile(configure().keys_file)
    others = [s for s in ("classify", "train", "admin") if s != scope]
    right, wrong = keys.create("right", [scope]).token, keys.create("wrong", others).token
    missing = client.request(method, path)
    assert missing.status_code == 401
    assert missing.headers["www-authenticate"].startswith("Bearer")
    assert missing.headers["content-type"] == "application/problem+json"
    assert client.request(method, path, headers=bearer(right[:-2] + "xx")).status_code == 401
    forbidden = client.request(method, path, headers=bearer(wrong))
    assert forbidden.status_code == 403
    assert forbidden.json()["missing_scope"] == scope
    assert f"'{scope}'" in forbidden.json()["detail"]
    assert client.request(method, path, headers=bearer(right)).status_code not in (401, 403)
    assert client.request(method, path, headers={"X-API-Key": right}).status_code not in (401, 403)


@pytest.mark.parametrize(("method", "path"), ANY_KEY)
def test_any_living_key_may_read_versions(client: TestClient, configure: Configure, method: str, path: str) -> None:
    keys = KeyFile(configure().keys_file)
    created = keys.create("any", ["classify"])
    assert client.request(method, path).status_code == 401
    assert client.request(method, path, headers=bearer(created.token)).status_code in (200, 404)
    keys.revoke(created.key.id)
    assert client.request(method, path, headers=bearer(created.token)).status_code == 401


def test_health_and_documentation_need_no_key(client: TestClient, configure: Configure) -> None:
    KeyFile(configure().keys_file).create("one", ["admin"])
    assert [client.get(path).status_code for path in OPEN] == [200] * len(OPEN)


def test_a_broken_key_file_lets_nobody_in(client: TestClient, configure: Configure) -> None:
    token = KeyFile(configure().keys_file).create("one", ["train"]).token
    configure().keys_file.write_text("{")
    response = client.get("/v1/jobs", headers=bearer(token))
    assert (response.status_code, response.json()["type"]) == (503, "urn:keepsight:problem:keys-unreadable")


def test_the_journal_says_which_key_moved_the_pointer(
    client: TestClient, configure: Configure, store: Store, teach: Callable[..., VersionId]
) -> None:
    teach("cat")
    token = KeyFile(configure().keys_file).create("the operator", ["admin"]).token
    assert client.post("/v1/admin/rollback", json={"reason": "why"}, headers=bearer(token)).status_code == 200
    assert store.journal()[-1].who == "the operator"


@pytest.mark.parametrize(
    "headers",
    [{"Host": "evil.example"}, {"Origin": "https://evil.example"}, {"Host": "192.168.1.5:8000"}, {"Origin": "null"}],
)
def test_without_keys_only_this_machine_is_answered(client: TestClient, headers: dict[str, str]) -> None:
    assert client.get("/v1/versions", headers=headers).status_code == 403
    assert client.get("/v1/versions", headers={"Host": "localhost:9"}).status_code == 200
    assert client.get("/v1/versions", headers={"Origin": "http://127.0.0.1:8000"}).status_code == 200


def test_a_server_on_another_address_is_never_open(configure: Configure, serve: Serve) -> None:
    client = serve(configure(host="0.0.0.0"))
    assert client.get("/v1/versions").status_code == 401


def test_unknown_paths_and_methods_are_problems(client: TestClient) -> None:
    missing = client.get("/v1/nothing")
    assert (missing.status_code, missing.headers["content-type"]) == (404, "application/problem+json")
    assert missing.json()["title"] == "Not Found"
    wrong = client.get("/v1/classify")
    assert (wrong.status_code, wrong.headers["content-type"]) == (405, "application/problem+json")
    assert wrong.headers["allow"] == "OPTIONS, POST"


def test_what_is_not_expected_is_a_problem_that_tells_nothing(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: Store) -> None:
        raise ZeroDivisionError("a secret detail")

    with monkeypatch.context() as patch:
        patch.setattr(Store, "pinned", broken)
        response = client.get("/v1/versions")
    assert (response.status_code, response.headers["content-type"]) == (500, "application/problem+json")
    assert "secret" not in response.text
    assert client.get("/v1/versions").status_code == 200


def test_the_first_page_leads_to_the_documentation(client: TestClient) -> None:
    response = client.get("/", follow_redirects=False)
    assert (response.status_code, response.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert 'href="/docs"' in response.text


def test_every_operation_is_documented(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    assert "Problem" in document["components"]["schemas"]
    tags = {tag["name"] for tag in document["tags"]}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            where = f"{method} {path}"
            assert operation["summary"], where
            assert set(operation["tags"]) <= tags, where
            if path.startswith("/v1"):
                assert {"401", "403"} <= set(operation["responses"]), where
                problem = operation["responses"]["401"]["content"]["application/problem+json"]
                assert problem["schema"]["$ref"] == "#/components/schemas/Problem", where
    assert "multipart/form-data" in document["paths"]["/v1/tasks"]["post"]["requestBody"]["content"]
    assert {"multipart/form-data", "application/json", "image/*", "application/octet-stream"} == set(
        document["paths"]["/v1/classify"]["post"]["requestBody"]["content"]
    )


def test_every_setting_is_described() -> None:
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []


def test_readiness_is_a_real_inference(configure: Configure, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    client = serve(configure(probe_timeout_s=0.2))
    assert client.get("/readyz").json()["status"] == "ready"
    app: Any = client.app
    stuck = threading.Event()
    features = Classifier.features

    def held(self: Classifier, pixels: Tensor) -> Features:
        assert stuck.wait(20)
        return features(self, pixels)

    monkeypatch.setattr(Classifier, "features", held)
    app.state.services.engine._answered_at = float("-inf")
    response = client.get("/readyz")
    assert (response.status_code, response.json()["type"]) == (503, "urn:keepsight:problem:not-ready")
    assert client.get("/healthz").json() == {"status": "alive"}
    stuck.set()
    wait_until(lambda: client.get("/readyz").status_code == 200)  # a slow machine may need more than one probe


def test_metrics_count_what_happened_in_this_app_alone(
    client: TestClient, configure: Configure, serve: Serve, picture: Picture
) -> None:
    other = serve(configure())
    client.post("/v1/classify", files=[("images", picture(1)), ("images", b"x")], data={"labels": ["a", "b"]})
    client.get("/v1/versions/nope")
    client.get("/nowhere")
    text = client.get("/metrics").text
    version = client.get("/v1/versions").json()["serving"]
    for line in (
        'keepsight_requests_total{method="POST",route="/v1/classify",status="200"} 1.0',
        'keepsight_requests_total{method="GET",route="/v1/versions/{version_id}",status="404"} 1.0',
        'keepsight_requests_total{method="GET",route="unmatched",status="404"} 1.0',
        'keepsight_request_seconds_count{route="/v1/classify"} 1.0',
        'keepsight_images_total{outcome="classified"} 1.0',
        'keepsight_images_total{outcome="refused"} 1.0',
        "keepsight_swaps_total 1.0",
        f'keepsight_serving_info{{version="{version}"}} 1.0',
        "keepsight_inference_queue 0.0",
    ):
        assert line in text, line
    assert "/v1/classify" not in other.get("/metrics").text


def test_serving_lines_carry_the_version(
    client: TestClient, picture: Picture, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "app")
    version = client.get("/v1/versions").json()["serving"]
    client.post("/v1/classify", files={"images": picture(1)}, data={"labels": ["a", "b"]})
    line = next(r.getMessage() for r in caplog.records if "POST /v1/classify" in r.getMessage())
    assert line.endswith(f"model_version={version}")


def start(settings: Settings) -> None:
    with TestClient(create_app(settings)):
        pass


def test_a_store_of_another_model_is_refused_with_what_to_set(
    client: TestClient, configure: Configure, tiny_spec: ModelSpec, tmp_path: Path
) -> None:
    import shutil

    from safetensors.torch import load_file, save_file

    source, other = Path(tiny_spec.name.removeprefix("local-dir:")), tmp_path / "other-model"
    shutil.copytree(source, other)
    weights = load_file(other / "open_clip_model.safetensors")
    save_file({name: tensor * 1.01 for name, tensor in weights.items()}, other / "open_clip_model.safetensors")
    with pytest.raises(StartupError, match=r"was made for the model.*set KEEPSIGHT_MODEL"):
        start(configure(model=f"local-dir:{other}"))


def test_a_gpu_that_is_not_there_and_an_unusable_spool_are_refused(
    configure: Configure, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(DeviceNotFoundError, match="KEEPSIGHT_DEVICE"):
        start(configure(device="cuda"))
    (tmp_path / "file").write_text("")
    with pytest.raises(StartupError, match="spool"):
        start(configure(spool=tmp_path / "file" / "spool"))

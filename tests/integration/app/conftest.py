from __future__ import annotations

import io
import threading
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from starlette.testclient import TestClient

from app.main import create_app
from app.settings import Settings
from app.wire.server import Server
from model_store.store import Store
from model_store.types import Provenance, VersionId
from segp_cl.learn.learner import initial_state
from segp_cl.models.backbone import Backbone
from segp_cl.models.load import load_backbone
from segp_cl.types import LearnedClass, LearnerState, ModelSpec
from tests.waiting import wait_until

LOCAL = "http://127.0.0.1:8000"
Configure = Callable[..., Settings]


@pytest.fixture(autouse=True)
def _load_the_tiny_model_once(tiny_spec: ModelSpec, tiny_backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers of these tests share one base model, which serving never changes. Other models are loaded as ever."""

    def cached(spec: ModelSpec, *, device: str = "cpu") -> Backbone:
        return tiny_backbone if spec == tiny_spec else load_backbone(spec, device=device)

    monkeypatch.setattr("app.startup.load_backbone", cached)


@pytest.fixture
def configure(tmp_path: Path, tiny_spec: ModelSpec, redis_url: str) -> Configure:
    """Settings of a server on the tiny model, a store of its own and the test session's Redis."""

    def make(**changes: object) -> Settings:
        values: dict[str, object] = {
            "store": tmp_path / "store",
            "spool": tmp_path / "spool",
            "keys_file": tmp_path / "keys.json",
            "redis_url": redis_url,
            "model": tiny_spec.name,
            "device": "cpu",
            "threads": 1,
            "poll_interval_s": 0.05,
            "reload_backoff_s": 0.2,
            "swap_timeout_s": 10.0,
            "events_poll_s": 0.05,
            "refusals_per_s": 0,  # tests are refused a lot
            **changes,
        }
        return Settings.model_validate(values)

    return make


@pytest.fixture
def serve() -> Iterator[Callable[[Settings], TestClient]]:
    """Starts servers that end with the test."""
    started: list[TestClient] = []

    def start(settings: Settings) -> TestClient:
        client = TestClient(create_app(settings), base_url=LOCAL, raise_server_exceptions=False)
        client.__enter__()
        started.append(client)
        return client

    yield start
    for client in started:
        client.__exit__(None, None, None)


@pytest.fixture
def listen() -> Iterator[Callable[[Settings], str]]:
    """Starts servers on sockets of their own, for clients that bring their own transport; they end with the test."""
    started: list[tuple[Server, threading.Thread]] = []

    def start(settings: Settings) -> str:
        server = Server(create_app(settings), settings.model_copy(update={"port": 0}))
        thread = threading.Thread(target=server.run)
        thread.start()
        started.append((server, thread))
        wait_until(lambda: server.ports or not thread.is_alive())
        assert server.ports, "the server did not start"
        return f"http://127.0.0.1:{server.ports[0]}"

    yield start
    for server, thread in started:
        server.should_exit = True
        thread.join(20)


@pytest.fixture
def client(configure: Configure, serve: Callable[[Settings], TestClient]) -> TestClient:
    """A server without keys on an empty store."""
    return serve(configure())


@pytest.fixture
def store(configure: Configure) -> Store:
    """The store of `client`."""
    return Store(configure().store)


@pytest.fixture
def teach(store: Store, tiny_backbone: Backbone) -> Callable[..., VersionId]:
    """Publish a version with these classes, as a worker would, on top of CURRENT; promote it if asked."""

    def make(*names: str, promote: bool = True, seed: int = 0) -> VersionId:
        parent = store.current()
        generator = torch.Generator().manual_seed(seed)
        prompts = [f"a photo of a {name}." for name in names]
        with torch.no_grad():
            text = tiny_backbone.text_features(prompts).clone()
        prototypes = F.normalize(torch.randn(len(names), tiny_backbone.raw_dim, generator=generator), dim=-1)
        classes = tuple(LearnedClass(name, prompt, 1, 5) for name, prompt in zip(names, prompts, strict=True))
        blank = initial_state(tiny_backbone)
        state: LearnerState = replace(blank, classes=classes, prototypes=prototypes, text_features=text, tasks=1)
        manifest = store.publish(state, parent=parent, provenance=Provenance(who="test"))
        if promote:
            store.promote(manifest.version_id, expected=parent, who="test")
        return manifest.version_id

    return make


@pytest.fixture
def picture() -> Callable[..., bytes]:
    """A picture that differs with every number, in any format that Pillow writes."""

    def make(number: int = 0, kind: str = "PNG", mode: str = "RGB", size: tuple[int, int] = (40, 30)) -> bytes:
        generator = torch.Generator().manual_seed(number)
        noise = torch.randint(0, 256, (size[1], size[0], 3), generator=generator, dtype=torch.uint8)
        buffer = io.BytesIO()
        Image.fromarray(noise.numpy()).convert(mode).save(buffer, kind)
        return buffer.getvalue()

    return make


@pytest.fixture
def archive(picture: Callable[..., bytes]) -> Callable[[Mapping[str, int]], bytes]:
    """A zip with so many pictures per class."""

    def make(counts: Mapping[str, int]) -> bytes:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as file:
            for position, (name, count) in enumerate(counts.items()):
                for number in range(count):
                    file.writestr(f"data/{name}/{number}.png", picture(100 * position + number))
        return buffer.getvalue()

    return make

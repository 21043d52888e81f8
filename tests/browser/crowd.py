"""The page where very much is known: 1,000 classes, and 500 versions. `scripts/pictures` measures it."""

from __future__ import annotations

import os
import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import httpx
import torch
import torch.nn.functional as F
from playwright.sync_api import Browser

from model_store.store import Store
from model_store.types import PreprocessingRecord, Provenance, VersionId
from segp_cl.learn.learner import initial_state
from segp_cl.models.load import load_backbone
from segp_cl.types import LearnedClass, LearnerState, ModelSpec
from tests.conftest import tiny_clip
from tests.e2e.conftest import Keepsight

CLASSES: Final = 1000
VERSIONS: Final = 500
PATHS: Final = ("/", "/classes", "/versions", "/versions/compare", "/test-sets", "/live")
RUNS: Final = 5

# what keeps a page from answering its reader: tasks of 50 ms and more, and pauses between two frames while it scrolls
_WATCH: Final = """
window.longest = 0;
new PerformanceObserver((list) => {
  for (const { duration } of list.getEntries()) window.longest = Math.max(window.longest, duration);
}).observe({ type: "longtask", buffered: true });
"""
_SCROLL: Final = """
() => new Promise((done) => {
  let last = performance.now(), worst = 0, step = 0;
  const frame = (now) => {
    worst = Math.max(worst, now - last);
    last = now;
    window.scrollTo(0, (document.body.scrollHeight * ++step) / 60);
    if (step < 60) requestAnimationFrame(frame);
    else done(worst);
  };
  requestAnimationFrame(frame);
})
"""


def crowded_state(spec: ModelSpec) -> tuple[LearnerState, PreprocessingRecord]:
    """A state that knows a thousand classes; nothing was learned."""
    base = load_backbone(spec)
    generator = torch.Generator().manual_seed(0)
    names = [f"kind number {number}" for number in range(1, CLASSES + 1)]
    state = replace(
        initial_state(base),
        classes=tuple(LearnedClass(name, f"a photo of a {name}.", 1, 20) for name in names),
        prototypes=F.normalize(torch.randn(CLASSES, base.raw_dim, generator=generator), dim=-1),
        text_features=F.normalize(torch.randn(CLASSES, base.joint_dim, generator=generator), dim=-1),
        covariance=torch.eye(base.raw_dim),
        tasks=1,
    )
    return state, PreprocessingRecord.model_validate(base.preprocessing)


def fill(root: Path, spec: ModelSpec) -> VersionId:
    """Fill an empty store with a long lineage, whose last version is served; return that."""
    state, preprocessing = crowded_state(spec)
    store, parent = Store(root), None
    for number in range(VERSIONS):
        scaled = replace(state, prototypes=state.prototypes * (1 + number / VERSIONS))  # each has content of its own
        provenance = Provenance(who="benchmark", reason="made up", preprocessing=preprocessing)
        parent = store.publish(scaled, parent=parent, provenance=provenance).version_id
    assert parent is not None
    store.promote(parent, expected=None, who="benchmark", reason="the last")
    return parent


def measure(browser: Browser, work: Path) -> dict[str, Any]:
    """Milliseconds of every page: of the server, until it is painted, its longest task, its longest pause in scrolling.

    Also kilobytes of HTML as sent.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("KEEPSIGHT_")}
    (model := work / "model").mkdir(parents=True)
    spec = tiny_clip(model)
    keepsight = Keepsight(work, environment | {"KEEPSIGHT_MODEL": spec.name, "KEEPSIGHT_THREADS": "1"})
    last = fill(work / "var" / "store", spec)
    addresses = {path: path for path in PATHS} | {"/versions/{version_id}": f"/versions/{last}"}
    try:
        _, note = keepsight.up("--no-worker")
        return {name: _page(browser, note["url"] + path) for name, path in addresses.items()}
    finally:
        for process in keepsight.started:
            process.terminate()
            process.communicate(timeout=60)


def _page(browser: Browser, url: str) -> dict[str, float]:
    server, sent = [], 0
    with httpx.Client(timeout=120) as client:
        client.get(url).raise_for_status()
        for _ in range(RUNS):
            begun = time.perf_counter()
            answer = client.get(url, headers={"accept-encoding": "gzip"})
            server.append(1000 * (time.perf_counter() - begun))
            sent = int(answer.headers.get("content-length", len(answer.content)))
    painted, longest, pauses = [], [], []
    for _ in range(RUNS):
        context = browser.new_context(viewport={"width": 1440, "height": 900}, locale="en-GB")
        context.set_default_timeout(120_000)
        page = context.new_page()
        page.add_init_script(_WATCH)
        page.goto(url, wait_until="load")
        page.wait_for_timeout(1500)
        painted.append(page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime"))
        longest.append(page.evaluate("window.longest"))
        pauses.append(page.evaluate(_SCROLL))
        context.close()
    return {
        "server_ms": round(statistics.median(server), 1),
        "sent_kb": round(sent / 1000, 1),
        "first_paint_ms": round(statistics.median(painted), 1),
        "longest_task_ms": round(statistics.median(longest), 1),
        "longest_pause_in_scrolling_ms": round(statistics.median(pauses), 1),
    }

"""A real service on a small model, and the Chromium that is installed. Without one, these tests are skipped."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, expect, sync_playwright

from segp_cl.types import ModelSpec
from tests.browser.driving import find_chromium, launch
from tests.e2e.conftest import COLOURS, Keepsight, colours

__all__ = ["colours"]

TEST_FILES = Path(__file__).parent
expect.set_options(timeout=30_000)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a browser where there is none, and say what is missing."""
    if find_chromium() is None:
        reason = pytest.mark.skip(reason="no Chromium is installed: apt-get install chromium")
        for item in items:
            if TEST_FILES in item.path.parents:
                item.add_marker(reason)


@dataclass
class Service:
    """A running service: its address, its note (see `keepsight up --json`) and its command line."""

    url: str
    note: dict[str, Any]
    keepsight: Keepsight


def serve(folder: Path, spec: ModelSpec, *options: str) -> tuple[Keepsight, Service]:
    """Start a service in a folder."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("KEEPSIGHT_")}
    environment |= {"KEEPSIGHT_MODEL": spec.name, "KEEPSIGHT_THREADS": "1", "KEEPSIGHT_DEVICE": "cpu"}
    keepsight = Keepsight(folder, environment)
    _, note = keepsight.up(*options)
    return keepsight, Service(note["url"], note, keepsight)


def end(keepsight: Keepsight) -> None:
    """Stop all that was started."""
    for process in keepsight.started:
        if process.poll() is None:
            process.terminate()
        process.communicate(timeout=60)
    assert keepsight.left_running() == []


@pytest.fixture
def service(tmp_path: Path, tiny_spec: ModelSpec) -> Iterator[Service]:
    """A service of its own for a test that changes what is known."""
    keepsight, service = serve(tmp_path, tiny_spec)
    yield service
    end(keepsight)


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory, tiny_spec: ModelSpec) -> Iterator[Service]:
    """A service that knows two colours, for tests that only look."""
    folder = tmp_path_factory.mktemp("taught")
    keepsight, service = serve(folder, tiny_spec)
    for name in list(COLOURS)[:2]:
        squares(folder / "first" / name, name)
    ran = keepsight("teach", str(folder / "first"), "--name", "warm", "--set", "strategy=prototypes", url=service.url)
    assert ran.code == 0, ran.err
    yield service
    end(keepsight)


def squares(folder: Path, name: str, count: int = 8) -> list[Path]:
    """Write noisy squares of a colour: real PNG files, easy to tell apart."""
    import numpy
    from PIL import Image

    random = numpy.random.default_rng(sum(map(ord, name)))
    folder.mkdir(parents=True)
    paths = [folder / f"{n}.png" for n in range(count)]
    for path in paths:
        pixels = numpy.array(COLOURS[name]) + random.normal(0, 25, (32, 32, 3))
        Image.fromarray(numpy.clip(pixels, 0, 255).astype(numpy.uint8)).save(path)
    return paths


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """The browser, for all tests of a module."""
    with sync_playwright() as playwright:
        browser = launch(playwright)
        yield browser
        browser.close()


@dataclass
class Windows:
    """Opens windows, and keeps what their pages complained about."""

    browser: Browser
    brought_about: tuple[str, ...] = ("Failed to load resource",)  # by answers of 4xx, which tests want
    complaints: list[str] = field(default_factory=list)
    contexts: list[BrowserContext] = field(default_factory=list)

    def __call__(self, width: int = 1440, height: int = 900, **options: Any) -> Page:
        """Open a window of somebody who was never here."""
        context = self.browser.new_context(
            viewport={"width": width, "height": height}, **{"locale": "en-GB", "color_scheme": "light", **options}
        )
        context.set_default_timeout(30_000)
        self.contexts.append(context)
        page = context.new_page()
        page.on("console", self._said)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        return page

    def _said(self, message: ConsoleMessage) -> None:
        if message.type == "error" and not message.text.startswith(self.brought_about):
            self.complaints.append(message.text)


@pytest.fixture
def window(chromium: Browser) -> Iterator[Callable[..., Page]]:
    """Opens windows. A test fails if a script of a page fails, or its policy is broken."""
    windows = Windows(chromium)
    yield windows
    for context in windows.contexts:
        context.close()
    assert windows.complaints == []

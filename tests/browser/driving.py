"""What drives a browser through the page: finding Chromium, dropping files, and asking axe-core."""

from __future__ import annotations

import base64
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, BrowserContext, Locator, Page, Playwright

AXE = Path(__file__).parent / "axe" / "axe.min.js"
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--use-fake-device-for-media-stream")
SERIOUS = ("serious", "critical")
WIDTHS = {"wide": (1440, 900), "narrow": (360, 740)}
THEMES = ("light", "dark")

_DROP = """
(place, files) => {
  const transfer = new DataTransfer();
  for (const { name, type, content } of files) {
    const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
    transfer.items.add(new File([bytes], name, { type }));
  }
  for (const kind of ["dragenter", "dragover", "drop"]) {
    place.dispatchEvent(new DragEvent(kind, { dataTransfer: transfer, bubbles: true, cancelable: true }));
  }
}
"""
_PASTE = """
(_, files) => {
  const clipboardData = new DataTransfer();
  for (const { name, type, content } of files) {
    const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
    clipboardData.items.add(new File([bytes], name, { type }));
  }
  document.body.dispatchEvent(new ClipboardEvent("paste", { clipboardData, bubbles: true, cancelable: true }));
}
"""


def find_chromium() -> str | None:
    """Return the path of the Chromium that is installed, or None."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


def launch(playwright: Playwright) -> Browser:
    """Start the Chromium that is installed, without a window."""
    path = find_chromium()
    assert path is not None, "no Chromium is installed"
    return playwright.chromium.launch(executable_path=path, args=list(FLAGS))


def _sent(files: Sequence[Path]) -> list[dict[str, str]]:
    return [
        {"name": path.name, "type": f"image/{path.suffix[1:]}", "content": base64.b64encode(path.read_bytes()).decode()}
        for path in files
    ]


def follow(page: Page, link: Locator) -> None:
    """Click a link, and wait for the scripts of the page that it leads to."""
    with page.expect_navigation(wait_until="load"):
        link.click()


def drop(page: Page, selector: str, files: Sequence[Path]) -> None:
    """Drop files on an element, with the events that a browser sends."""
    page.locator(selector).evaluate(_DROP, _sent(files))


def drag_in(page: Page, selector: str, paths: Sequence[Path]) -> None:
    """Drag files and folders from the desktop onto an element: the browser itself makes the events and reads them."""
    box = page.locator(selector).bounding_box()
    assert box is not None, f"{selector} is not shown"
    place = {"x": box["x"] + box["width"] / 2, "y": box["y"] + box["height"] / 2}
    data = {"items": [], "files": [str(path) for path in paths], "dragOperationsMask": 1}
    session = page.context.new_cdp_session(page)
    try:
        for kind in ("dragEnter", "dragOver", "drop"):
            session.send("Input.dispatchDragEvent", {"type": kind, "data": data, **place})
    finally:
        session.detach()


def paste(page: Page, files: Sequence[Path]) -> None:
    """Paste files into the page."""
    page.locator("body").evaluate(_PASTE, _sent(files))


_SETTLED = """
Promise.all(document.getAnimations().filter((each) => each.effect.getComputedTiming().endTime !== Infinity).map(
  (each) => each.finished.catch(() => null)
))
"""
"""Colours that are on their way have no contrast of their own; those that always move, such as spinners, are left."""


def serious_findings(context: BrowserContext, page: Page) -> list[str]:
    """Return what axe-core finds serious or critical on a page as it is now, with the elements."""
    # through the protocol, because the page's policy lets no script in from elsewhere
    session = context.new_cdp_session(page)
    try:
        session.send("Runtime.evaluate", {"expression": AXE.read_text("utf-8")})
        asked = {"expression": f"{_SETTLED}.then(() => axe.run(document))", "awaitPromise": True, "returnByValue": True}
        answer: dict[str, Any] = session.send("Runtime.evaluate", asked)
    finally:
        session.detach()
    if "exceptionDetails" in answer:
        raise AssertionError(f"axe-core failed: {answer['exceptionDetails']}")
    return [
        f"{violation['id']} ({violation['impact']}): {node['html'][:200]} {node['failureSummary'][:200]}"
        for violation in answer["result"]["value"]["violations"]
        if violation["impact"] in SERIOUS
        for node in violation["nodes"]
    ]

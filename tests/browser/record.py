"""Takes pictures of every page, and measures the page: `scripts/pictures` runs it. It is no test.

A service with the default model is started on a store of its own and taught scans of handwritten digits, by the
page itself. Pictures go to `docs/img/web/`, figures to `docs/results/web/summary.json`.
"""

from __future__ import annotations

import io
import json
import os
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
from PIL import Image
from playwright.sync_api import Browser, BrowserContext, Page, Response, sync_playwright

from keepsight.keys import KeyFile
from tests.browser import crowd, lighthouse
from tests.browser.driving import THEMES, WIDTHS, launch, serious_findings
from tests.e2e.conftest import Keepsight
from tests.page_paths import PAGES

ROOT: Final = Path(__file__).parents[2]
PICTURES: Final = ROOT / "docs" / "img" / "web"
SUMMARY: Final = ROOT / "docs" / "results" / "web" / "summary.json"
RUNS: Final = 9
CLASSES: Final = ("zero", "one", "seven")
PER_CLASS: Final = 40
WAIT_MS: Final = 240_000


@dataclass
class Clicks:
    """A person at a page, whose clicks are counted."""

    page: Page
    count: int = 0

    def click(self, selector: str) -> None:
        """Click on something."""
        self.page.click(selector)
        self.count += 1

    def choose(self, selector: str, folder: Path) -> None:
        """Choose a folder: a click on the button, one on the folder, and one to confirm."""
        self.page.set_input_files(selector, folder)
        self.count += 3


def digits(folder: Path) -> Path:
    """Write scans of handwritten digits as PNG files, a folder for each class."""
    from sklearn.datasets import load_digits

    found = load_digits()
    numbers = {"zero": 0, "one": 1, "seven": 7}
    for name in CLASSES:
        (folder / name).mkdir(parents=True)
        rows = found.images[found.target == numbers[name]][: PER_CLASS + 2]
        for at, pixels in enumerate(rows):
            image = Image.fromarray((255 - pixels * 255 / 16).astype("uint8")).resize(
                (96, 96), Image.Resampling.BICUBIC
            )
            target = folder if at < PER_CLASS else folder.with_name("asked")
            (target / name).mkdir(parents=True, exist_ok=True)
            image.save(target / name / f"{at}.png")
    return folder


def window(browser: Browser, size: str, theme: str) -> tuple[BrowserContext, Page]:
    """Open a window of somebody who was never here."""
    width, height = WIDTHS[size]
    context = browser.new_context(
        viewport={"width": width, "height": height}, color_scheme="dark" if theme == "dark" else "light", locale="en-GB"
    )
    context.set_default_timeout(WAIT_MS)
    return context, context.new_page()


def teach(browser: Browser, url: str, folder: Path) -> dict[str, Any]:
    """Teach classes from an empty page; return the clicks, and the seconds until they are answered."""
    context, page = window(browser, "wide", "light")
    page.goto(url)
    begun = time.monotonic()
    person = Clicks(page)
    person.click('a[href$="/teach"]')
    person.choose("#choose-folder", folder)
    picture(page, "teach-classes")
    person.click("#check")
    page.wait_for_selector("#report .notice[data-kind=success], #report .findings")
    picture(page, "teach-report")
    person.click("#learn")
    page.wait_for_selector("#progress [data-state=good] .figures")
    seconds = time.monotonic() - begun
    page.wait_for_selector(".chart canvas")
    picture(page, "teach-progress")
    page.get_by_role("link", name="To the versions").wait_for()
    picture(page, "teach-done")
    context.close()
    return {"clicks_to_teach": person.count, "seconds_to_teach": round(seconds, 1)}


def load(browser: Browser, url: str) -> tuple[int, float]:
    """Open the first page with an empty cache; return its bytes on the wire, and milliseconds until it is painted."""
    context, page = window(browser, "wide", "light")
    answers: list[Response] = []
    page.on("response", lambda answer: answers.append(answer))
    page.goto(url, wait_until="networkidle")
    weight = sum(answer.request.sizes()["responseBodySize"] for answer in answers)
    painted = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
    context.close()
    return weight, float(painted)


def weigh(browser: Browser, url: str) -> dict[str, Any]:
    """Return what the first page weighs, and how fast it is: in the browser, and the server's part alone."""
    weights, paints = zip(*(load(browser, url) for _ in range(RUNS)), strict=True)
    with httpx.Client() as client:
        client.get(url)
        server = []
        for _ in range(5 * RUNS):
            begun = time.perf_counter()
            client.get(url).raise_for_status()
            server.append(1000 * (time.perf_counter() - begun))
    return {
        "first_page_kb": round(statistics.median(weights) / 1000, 1),
        "first_paint_ms": round(statistics.median(paints), 1),
        "server_ms": round(statistics.median(server), 1),
    }


def look(browser: Browser, urls: dict[str, str], images: list[Path]) -> dict[str, Any]:
    """Take pictures of every page in both themes and sizes, and have axe-core look at each."""
    serious = []
    for path in PAGES:
        name = path.strip("/") or "try"
        for size in WIDTHS:
            for theme in THEMES:
                context, page = window(browser, size, theme)
                page.goto(urls.get(path, urls["*"]) + path, wait_until="load")
                if path == "/":
                    page.set_input_files("#choose", images)
                    page.locator(".result .bars").nth(len(images) - 1).wait_for()
                page.wait_for_timeout(800)
                serious += serious_findings(context, page)
                if (size, theme) != ("narrow", "dark"):
                    picture(page, f"{name}-{size}-{theme}")
                context.close()
    return {"pages": len(PAGES), "axe_serious": len(serious), "axe_findings": serious}


def picture(page: Page, name: str) -> None:
    """Write a small picture of what the window shows: PNG with a palette."""
    shown = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    PICTURES.mkdir(parents=True, exist_ok=True)
    shown.quantize(256, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(
        PICTURES / f"{name}.png", optimize=True
    )


def record() -> dict[str, Any]:
    """Start two services, one with keys, and return the figures."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("KEEPSIGHT_")}
    with tempfile.TemporaryDirectory() as work, sync_playwright() as playwright:
        folders = [Path(work) / "open", Path(work) / "guarded"]
        for folder in folders:
            folder.mkdir()
        services = [Keepsight(folder, environment) for folder in folders]
        browser = launch(playwright)
        try:
            _, note = services[0].up()
            _, guarded = services[1].up("--no-worker")
            KeyFile(folders[1] / "var" / "keys.json").create("ada", ["admin"])
            data = digits(Path(work) / "digits")
            figures = teach(browser, note["url"], data)
            images = [next((Path(work) / "asked" / name).iterdir()) for name in CLASSES]
            figures |= weigh(browser, note["url"])
            figures["lighthouse"] = lighthouse.scores([note["url"] + path for path in PAGES if path != "/sign-in"])
            figures |= look(browser, {"*": note["url"], "/sign-in": guarded["url"]}, images)
            figures["crowded"] = crowd.measure(browser, Path(work) / "crowded")
        finally:
            browser.close()
            for service in services:
                for process in service.started:
                    process.terminate()
                    process.communicate(timeout=60)
    return figures


def main() -> None:
    """Write pictures and figures."""
    figures = record()
    order = ("pages", "first_page_kb", "first_paint_ms", "server_ms", "axe_serious", "axe_findings", "clicks_to_teach",
             "seconds_to_teach", "lighthouse", "crowded")  # fmt: skip
    about = {
        "about": f"median of {RUNS} loads with an empty cache; teaching {len(CLASSES)} classes of {PER_CLASS} images "
        "with the model compact, from the first click to the served instant version; lighthouse: "
        f"{lighthouse.VERSION} as a slow phone, lowest of all pages but the sign-in; crowded: with "
        f"{crowd.CLASSES:,} classes and {crowd.VERSIONS} versions, median of {crowd.RUNS}",
        "cores": os.cpu_count(),
    }
    SUMMARY.parent.mkdir(parents=True, exist_ok=True)
    SUMMARY.write_text(json.dumps({**{name: figures[name] for name in order}, **about}, indent=2) + "\n")
    print(SUMMARY.read_text())


if __name__ == "__main__":
    main()

"""Takes pictures of every page, and measures the page: `scripts/pictures` runs it. It is no test.

A service with the default model is started on a store of its own and taught scans of handwritten digits: the first
task by the page itself, the rest by `filled`. Pictures go to `docs/img/web/`, figures to
`docs/results/web/summary.json`.
"""

from __future__ import annotations

import io
import json
import os
import statistics
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
from PIL import Image
from playwright.sync_api import Browser, BrowserContext, Page, Response, sync_playwright

from keepsight import Client
from tests.browser import crowd, filled, lighthouse
from tests.browser.driving import THEMES, WIDTHS, launch, serious_findings
from tests.e2e.conftest import Keepsight
from tests.page_paths import PAGES

ROOT: Final = Path(__file__).parents[2]
PICTURES: Final = ROOT / "docs" / "img" / "web"
SUMMARY: Final = ROOT / "docs" / "results" / "web" / "summary.json"
RUNS: Final = 9
CLASSES: Final = {"zero": 0, "one": 1, "seven": 7}
"""What is taught by the page."""
OTHERS: Final = {"second": {"two": 2, "three": 3}, "another team": {"four": 4, "five": 5}}
PER_CLASS: Final = 40
WAIT_MS: Final = 240_000
HIGHEST: Final = 1200
"""A picture shows no more of a page, in pixels from its top."""


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


def digits(folder: Path) -> None:
    """Write scans of handwritten digits as PNG files, a folder for each class.

    `taught` is for the page, `asked` for what is classified, and `more` for `filled.fill`.
    """
    from sklearn.datasets import load_digits

    found = load_digits()
    scans = {number: found.images[found.target == number] for number in range(10)}
    more = folder / "more"
    for name, number in CLASSES.items():
        _write(scans[number][:PER_CLASS], folder / "taught" / name)
        _write(scans[number][PER_CLASS : PER_CLASS + 2], folder / "asked" / name)
    for task, classes in OTHERS.items():
        for name, number in classes.items():
            _write(scans[number][:PER_CLASS], more / task / name)
    for name, number in (CLASSES | OTHERS["second"] | OTHERS["another team"]).items():
        _write(scans[number][-20:], more / filled.TEST_SET / name)
    half = PER_CLASS // 2
    for name, rows in (("six", slice(half)), ("nine", slice(half, 2 * half))):
        _write([*scans[6][rows], *scans[9][rows]], more / "labels mixed up" / name)


def _write(scans: Iterable[Any], folder: Path) -> None:
    folder.mkdir(parents=True)
    for at, pixels in enumerate(scans):
        image = Image.fromarray((255 - pixels * 255 / 16).astype("uint8"))
        image.resize((96, 96), Image.Resampling.BICUBIC).save(folder / f"{at}.png")


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


def addresses(url: str, guarded: str, versions: filled.Filled) -> dict[str, str]:
    """Return the address of every page, by the name of its picture. Sign-in and keys are of the service with keys."""
    pages = {path.strip("/") or "try": url + path for path in PAGES}
    pages |= {path.strip("/"): guarded + path for path in ("/sign-in", "/keys")}
    pages["compare"] = f"{url}/versions/compare?a={versions.trunk}&b={versions.edited}"
    pages["version"] = f"{url}/versions/{versions.trunk}"
    return pages


def look(browser: Browser, pages: dict[str, str], token: str, images: list[Path]) -> dict[str, Any]:
    """Take pictures of every page in both themes and sizes, and have axe-core look at each."""
    serious = []
    for name, url in pages.items():
        for size in WIDTHS:
            for theme in THEMES:
                context, page = window(browser, size, theme)
                page.goto(url, wait_until="load")
                if name == "try":
                    page.set_input_files("#choose", images)
                    page.locator(".result .bars").nth(len(images) - 1).wait_for()
                if name == "keys":
                    page.fill("#key", token)
                    page.press("#key", "Enter")
                    page.get_by_role("row").first.wait_for()
                if name == "versions":
                    page.locator("#heat td.number").first.wait_for()
                if name == "live":
                    stay(page, url.removesuffix("/live"), images)
                page.wait_for_timeout(800)
                serious += serious_findings(context, page)
                if (size, theme) != ("narrow", "dark"):
                    picture(page, f"{name}-{size}-{theme}")
                context.close()
    return {"pages": len(pages), "axe_serious": len(serious), "axe_findings": serious}


def stay(page: Page, url: str, images: list[Path]) -> None:
    """Stay on Live until its charts have several points, while others classify."""
    with Client(url) as client:
        for turn in range(12):
            for _ in range(1 + turn % 4):
                client.classify(images)
            page.wait_for_timeout(800)


def picture(page: Page, name: str) -> None:
    """Write a small picture of a page from its top: PNG with a palette."""
    width, height = page.evaluate("[innerWidth, Math.max(innerHeight, document.documentElement.scrollHeight)]")
    page.set_viewport_size({"width": width, "height": min(HIGHEST, height)})
    page.evaluate("scrollTo(0, 0)")
    page.wait_for_timeout(300)  # for charts, which follow the size of the window
    shown = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    PICTURES.mkdir(parents=True, exist_ok=True)
    with_few_colours(shown).save(PICTURES / f"{name}.png", optimize=True)


def with_few_colours(shown: Image.Image) -> Image.Image:
    """Reduce a picture to 256 colours: the most frequent one of each of its most frequent shades.

    So a small mark of a plain colour keeps it, where Pillow's own ways mix it with others.
    """
    shades: dict[tuple[int, ...], Counter[tuple[int, ...]]] = defaultdict(Counter)
    for colour, count in Counter(zip(*[iter(shown.tobytes())] * 3, strict=True)).items():
        shades[tuple(part >> 3 for part in colour)][colour] = count
    frequent = sorted(shades.values(), key=Counter.total, reverse=True)[:256]
    palette = Image.new("P", (1, 1))
    palette.putpalette([part for shade in frequent for part in shade.most_common(1)[0][0]])
    return shown.quantize(palette=palette, dither=Image.Dither.NONE)


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
            token = filled.keys(folders[1] / "var" / "keys.json")
            digits(data := Path(work) / "digits")
            figures = teach(browser, note["url"], data / "taught")
            images = [next((data / "asked" / name).iterdir()) for name in CLASSES]
            figures |= weigh(browser, note["url"])
            versions = filled.fill(note["url"], data / "more", rename=("seven", "seven, crossed"), config={})
            figures |= look(browser, addresses(note["url"], guarded["url"], versions), token, images)
            figures["lighthouse"] = lighthouse.scores([note["url"] + path for path in PAGES if path != "/sign-in"])
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

"""A person teaches classes at the page, sees them answered, corrects one, and bears what may go wrong meanwhile."""

from __future__ import annotations

import os
import re
import signal
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import Service, squares
from tests.browser.driving import drag_in, drop, follow, paste
from tests.waiting import wait_until

Window = Callable[..., Page]
SLOW_MS = 120_000
TRAINS_LONG = """
const send = XMLHttpRequest.prototype.send;
XMLHttpRequest.prototype.send = function (body) {
  const config = {epochs: 1000, batch_size: 2, k_adv: 1, rank: 4};
  if (body instanceof FormData && body.has("archive")) body.append("config", JSON.stringify(config));
  return send.call(this, body);
};
"""
"""Adds to what the page sends: nothing on the page asks for a long training."""


def name_class(page: Page, name: str) -> None:
    page.fill("#class-name", name)
    page.press("#class-name", "Enter")


def finish(page: Page) -> None:
    """Have the images checked, look at the report, and teach them; return once they are learned."""
    page.click("#check")
    expect(page.get_by_text("No label looks wrong.").or_(page.get_by_text(re.compile("likely wrong$")))).to_be_visible(
        timeout=SLOW_MS
    )
    page.click("#learn")
    expect(page.get_by_role("link", name="To the versions")).to_be_visible(timeout=SLOW_MS)


def test_a_person_teaches_two_classes_by_dropping_files_sees_them_answered_and_corrects_one(
    service: Service, window: Window, tmp_path: Path
) -> None:
    page = window()
    page.goto(service.url)
    expect(page.get_by_role("heading", name="No classes are taught yet")).to_be_visible()
    follow(page, page.get_by_role("link", name="Teach classes"))

    red, blue = squares(tmp_path / "red", "red"), squares(tmp_path / "blue", "blue")
    name_class(page, "red")
    drop(page, '[data-class="red"]', red[:6])
    name_class(page, "blue")
    drop(page, '[data-class="blue"]', [*blue[:6], blue[5]])
    expect(page.locator('[data-class="blue"]')).to_contain_text("7 images")

    # The report comes before anything is learned.
    page.click("#check")
    report = page.locator("#report")
    expect(report.get_by_role("row", name="red")).to_contain_text("6", timeout=SLOW_MS)
    expect(report).to_contain_text(re.compile("No label looks wrong|likely wrong"), timeout=SLOW_MS)
    wait_until(lambda: jobs(service)[0]["state"] == "succeeded")
    assert [version["classes"] for version in versions(service)] == [0]
    assert jobs(service)[0]["dry_run"] is True

    page.click("#learn")
    expect(page).to_have_url(re.compile(r"/teach/[0-9a-f]{32}$"))
    expect(page.get_by_role("heading", name=re.compile("Instant version"))).to_be_visible(timeout=SLOW_MS)
    expect(page.get_by_role("heading", name=re.compile("Trained version 3"))).to_be_visible(timeout=SLOW_MS)
    assert [(version["made"], version["classes"]) for version in versions(service)][1:] == [
        ("instant", 2),
        ("trained", 2),
    ]

    follow(page, page.get_by_role("link", name="Try it"))
    drop(page, "#drop", [red[7], blue[7]])
    results = page.locator(".result")
    expect(results.locator(".best")).to_have_text(["red", "blue"])
    expect(results.first.locator(".bar-row.head")).to_have_text(re.compile("Probability.*Text.*Visual"))

    # "This is ..." sends a correction, which can be undone.
    for label, learned in (("blue", "blue"), ("orange", "orange")):
        results.first.get_by_label("This is …").fill(label)
        results.first.get_by_role("button", name="Correct").click()
        if learned == "orange":
            page.get_by_role("dialog").get_by_role("button", name="Begin the class").click()
        expect(results.first.get_by_text(f"Kept as {learned} until it is learned")).to_be_visible()
        kept = httpx.get(f"{service.url}/v1/corrections").json()["corrections"]
        assert [(each["label"], each["answered"], each["new_class"]) for each in kept] == [
            (learned, "red", learned == "orange")
        ]
        results.first.get_by_role("button", name="Undo").click()
        expect(results.first.get_by_label("This is …")).to_be_visible()
        assert httpx.get(f"{service.url}/v1/corrections").json()["corrections"] == []

    # Two versions side by side.
    page.get_by_text("Compare with another version").click()
    page.get_by_label("Compare with version").select_option(label="2 – 2 classes · instant")
    expect(results.first.get_by_role("heading", name="Version 2")).to_be_visible()
    expect(results.first.get_by_role("heading", name="Version 3")).to_be_visible()
    expect(results.first.get_by_role("table")).to_have_count(2)


def versions(service: Service) -> list[dict[str, Any]]:
    return list(httpx.get(f"{service.url}/v1/versions").json()["versions"])


def jobs(service: Service) -> list[dict[str, Any]]:
    return list(httpx.get(f"{service.url}/v1/jobs").json()["jobs"])


def test_folders_and_archives_are_taught_as_they_are_and_what_is_wrong_is_told_first(
    service: Service, window: Window, tmp_path: Path
) -> None:
    page = window()
    page.goto(f"{service.url}/teach")
    squares(tmp_path / "pets" / "red", "red")
    squares(tmp_path / "pets" / "green", "green")
    (tmp_path / "pets" / "green" / "notes.png").write_bytes(b"no image at all")
    drag_in(page, "#drop", [tmp_path / "pets"])
    expect(page.locator("[data-class]")).to_have_count(2)
    page.reload()
    page.set_input_files("#choose-folder", tmp_path / "pets")
    expect(page.locator("[data-class]")).to_have_count(2)
    page.click("#check")
    expect(page.get_by_text("1 file was rejected")).to_be_visible(timeout=SLOW_MS)
    expect(page.locator("#report .findings")).to_contain_text("notes.png")

    page.on("dialog", lambda dialog: dialog.accept())  # classes that were not taught would be lost
    page.goto(f"{service.url}/teach")
    archive = tmp_path / "shapes.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in squares(tmp_path / "yellow", "yellow"):
            file.write(path, f"yellow/{path.name}")
        file.write(path, "green/again.png")
    page.set_input_files("#choose-archive", archive)
    page.click("#check")
    expect(page.get_by_text("1 picture is there twice")).to_be_visible(timeout=SLOW_MS)
    page.click("#learn")
    expect(page.get_by_role("link", name="To the versions")).to_be_visible(timeout=SLOW_MS)
    follow(page, page.get_by_role("link", name="Teach more"))
    page.set_input_files("#choose-archive", archive)
    page.click("#check")
    expect(page.get_by_role("alert")).to_contain_text("A class is already known")


def test_a_lost_connection_is_told_and_comes_back_and_a_task_can_be_cancelled(
    service: Service, window: Window, tmp_path: Path
) -> None:
    page = window()
    page.add_init_script(TRAINS_LONG)
    page.goto(f"{service.url}/teach")
    for name in ("red", "blue"):
        name_class(page, name)
        drop(page, f'[data-class="{name}"]', squares(tmp_path / name, name, count=40))
    page.click("#check")
    expect(page.locator("#learn")).to_be_visible(timeout=SLOW_MS)
    page.click("#learn")
    expect(page.get_by_role("heading", name="Training")).to_be_visible(timeout=SLOW_MS)
    expect(page.locator(".losses")).to_contain_text("total", timeout=SLOW_MS)

    os.kill(service.note["parts"]["server"], signal.SIGKILL)
    expect(page.get_by_text("The connection is lost.")).to_be_visible()
    expect(page.get_by_text("The connection is lost.")).to_be_hidden(timeout=SLOW_MS)
    before = page.locator(".stage .hint").first.inner_text()
    expect(page.locator(".stage .hint").first).not_to_have_text(before, timeout=SLOW_MS)

    page.get_by_role("button", name="Cancel", exact=True).click()
    page.get_by_role("dialog").get_by_role("button", name="Cancel the task").click()
    expect(page.get_by_role("heading", name="Cancelled")).to_be_visible(timeout=SLOW_MS)
    expect(page.get_by_role("heading", name=re.compile("Instant version 2"))).to_be_visible()
    wait_until(lambda: jobs(service)[0]["state"] == "cancelled")
    page.reload()
    expect(page.locator(".losses")).to_contain_text("total")
    expect(page.get_by_role("img", name="How the losses went")).to_be_visible()


def test_images_are_pasted_and_words_of_ones_own_are_answered_beside_the_classes(
    taught: Service, window: Window, tmp_path: Path
) -> None:
    page = window()
    page.goto(taught.url)
    paste(page, squares(tmp_path / "red", "red", count=2))
    results = page.locator(".result")
    expect(results.locator(".best")).to_have_text(["red", "red"])
    expect(results.first).to_contain_text(re.compile("The set has \\d labels?: "))
    page.get_by_label("Words of your own").fill("violet, a warm square")
    expect(results.first.locator(".label")).to_contain_text(["red", "violet"], use_inner_text=True)
    assert set(results.first.locator(".bar-row:not(.head) .label").all_inner_texts()) == {
        "red", "green", "violet", "a warm square"
    }  # fmt: skip
    page.get_by_label("Beside the taught classes").uncheck()
    expect(results.first.locator(".bar-row:not(.head)")).to_have_count(2)
    results.first.get_by_role("button", name=re.compile("Remove")).click()
    expect(results).to_have_count(1)


def test_a_photograph_is_taken_with_the_camera_and_answered(taught: Service, window: Window) -> None:
    page = window(permissions=["camera"])
    page.goto(taught.url)
    photograph = page.locator("#photograph")
    photograph.focus()
    page.keyboard.press("Enter")
    camera = page.get_by_role("dialog", name="Take a photograph")
    expect(camera).to_be_visible()
    page.keyboard.press("Escape")
    expect(camera).to_have_count(0)
    expect(photograph).to_be_focused()
    page.keyboard.press("Enter")
    camera.get_by_role("button", name="Take it").click()
    expect(page.locator(".result .best")).to_have_text(re.compile("red|green"))
    expect(camera).to_have_count(0)


def test_a_file_that_is_no_image_is_refused_in_its_own_place(taught: Service, window: Window, tmp_path: Path) -> None:
    page = window()
    page.goto(taught.url)
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\nand then nothing")
    page.set_input_files("#choose", [broken, *squares(tmp_path / "green", "green", count=1)])
    expect(page.locator(".result")).to_have_count(2)
    expect(page.get_by_role("alert")).to_contain_text("The image cannot be decoded")
    expect(page.locator(".best")).to_have_text("green")


@pytest.mark.parametrize("path", ["/", "/teach"])
def test_the_page_says_so_when_the_service_cannot_be_reached(
    path: str, taught: Service, window: Window, tmp_path: Path
) -> None:
    page = window()
    page.goto(taught.url + path)
    page.route("**/v1/**", lambda route: route.abort())
    images = squares(tmp_path / "red", "red", count=2)
    if path == "/":
        drop(page, "#drop", images)
    else:
        name_class(page, "crimson")
        drop(page, '[data-class="crimson"]', images)
        page.click("#check")
    expect(page.get_by_role("alert")).to_contain_text("The service cannot be reached")
    expect(page.get_by_role("alert")).to_contain_text("Then try again.")

"""A person looks after what was learned: renames a class, merges two, compares versions, rolls back, and the rest."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Page, expect

from keepsight import Client
from keepsight.keys import KeyFile
from segp_cl.types import ModelSpec
from tests.browser.conftest import Service, Windows, end, serve, squares
from tests.browser.driving import serious_findings
from tests.e2e.conftest import COLOURS
from tests.waiting import wait_until

Window = Callable[..., Page]
SLOW_MS = 120_000
FIRST = next(iter(COLOURS))


@pytest.fixture
def coloured(service: Service, tmp_path: Path) -> Service:
    """A service that was taught three colours."""
    for name in list(COLOURS)[:3]:
        squares(tmp_path / "first" / name, name)
    ran = service.keepsight(
        "teach", str(tmp_path / "first"), "--name", "warm", "--set", "strategy=prototypes", url=service.url
    )
    assert ran.code == 0, ran.err
    return service


def versions(service: Service) -> dict[str, Any]:
    return dict(httpx.get(f"{service.url}/v1/versions").json())


def classes(service: Service) -> list[str]:
    return [known["name"] for known in httpx.get(f"{service.url}/v1/classes").json()["classes"]]


def zipped(folder: Path, path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*.png")):
            archive.write(file, file.relative_to(folder))
    return path


def test_a_class_is_renamed_after_it_was_said_what_would_change_and_the_rename_is_undone(
    coloured: Service, window: Window
) -> None:
    first, *others = classes(coloured)
    page = window()
    page.goto(f"{coloured.url}/classes")
    expect(page.locator("tbody tr")).to_have_count(3)
    page.get_by_role("button", name=f"Edit {first}").click()
    dialog = page.get_by_role("dialog")
    do = dialog.get_by_role("button", name="Do it")
    expect(do).to_be_disabled()
    expect(dialog).to_contain_text("Write another name, another prompt, or both.")
    dialog.get_by_label("New name").fill(others[0])
    expect(dialog.get_by_role("alert")).to_contain_text(f"there is a class '{others[0]}'")
    expect(do).to_be_disabled()
    dialog.get_by_label("New name").fill("crimson")
    expect(dialog.locator("#preview")).to_contain_text(re.compile(f"{first}: \\d+ images, accuracy"))
    expect(dialog.locator("#preview")).to_contain_text("Prompt: a photo of a crimson.")
    assert serious_findings(page.context, page) == []
    dialog.get_by_label("Reason (optional)").fill("the house's word")
    do.click()
    expect(page.get_by_text("Done: version 3 is served.")).to_be_visible(timeout=SLOW_MS)
    expect(page.get_by_role("rowheader", name=re.compile("^crimson"))).to_be_visible()
    assert classes(coloured) == ["crimson", *others]
    page.get_by_role("button", name="Undo").click()
    expect(page.get_by_role("rowheader", name=re.compile(f"^{first}"))).to_be_visible(timeout=SLOW_MS)
    assert classes(coloured) == [first, *others]


def test_chosen_classes_are_merged_one_is_deleted_and_one_gets_other_images(
    coloured: Service, window: Window, tmp_path: Path
) -> None:
    first, second, third = classes(coloured)
    page = window()
    page.goto(f"{coloured.url}/classes")
    for name in (first, second):
        page.get_by_label(f"Choose {name}").check()
    page.get_by_role("button", name="Merge 2 classes").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("What they are called then").fill("either")
    expect(dialog.locator("#preview")).to_contain_text("Classes: 3 now, 2 then.")
    dialog.get_by_role("button", name="Merge").click()
    expect(page.get_by_text("is served.")).to_be_visible(timeout=SLOW_MS)
    assert classes(coloured) == ["either", third]
    page.get_by_role("button", name=f"Edit {third}").click()
    dialog.get_by_text("Replace images").click()
    dialog.get_by_label("New images").set_input_files(squares(tmp_path / "others", list(COLOURS)[3]))
    dialog.get_by_role("button", name="Do it").click()
    expect(page.get_by_text("Done: version 4 is served.")).to_be_visible(timeout=SLOW_MS)
    page.get_by_role("button", name=f"Edit {third}").click()
    dialog.get_by_text("Delete", exact=True).click()
    expect(dialog.locator("#preview")).to_contain_text("Remains:")
    dialog.get_by_role("button", name="Do it").click()
    expect(page.get_by_text("Done: version 5 is served.")).to_be_visible(timeout=SLOW_MS)
    assert classes(coloured) == ["either"]


def test_a_person_measures_compares_rolls_back_and_comes_back(
    coloured: Service, window: Window, tmp_path: Path
) -> None:
    for name in list(COLOURS)[:3]:
        squares(tmp_path / "field" / name, name, count=4)
    page = window()
    page.goto(f"{coloured.url}/test-sets")
    expect(page.get_by_text("There is no test set yet.")).to_be_visible()
    page.get_by_role("button", name="Store").click()
    expect(page.get_by_role("alert")).to_contain_text("Choose an archive.")
    page.get_by_label("Name").fill("field")
    page.set_input_files("#set-file", zipped(tmp_path / "field", tmp_path / "field.zip"))
    page.get_by_role("button", name="Store").click()
    expect(page.get_by_role("heading", name="field")).to_be_visible(timeout=SLOW_MS)
    page.get_by_role("button", name="Measure").click()
    expect(page.locator("dd .share")).to_be_visible(timeout=SLOW_MS)

    first = classes(coloured)[0]
    edited = httpx.patch(f"{coloured.url}/v1/classes/{first}", json={"name": "crimson"}).json()["job_id"]
    wait_until(lambda: httpx.get(f"{coloured.url}/v1/jobs/{edited}").json()["state"] == "succeeded")
    newest, before = versions(coloured)["versions"][-1], versions(coloured)["versions"][-2]
    page.goto(f"{coloured.url}/versions")
    expect(page.locator("#heat td.number").first).to_have_text(re.compile(r"^\d+%$"))
    expect(page.locator("#lineage canvas")).to_be_visible()
    for version in (before, newest):
        page.get_by_label(f"Choose version {version['number']}").check()
    page.get_by_role("button", name="Compare the chosen two").click()
    expect(page.get_by_role("heading", name="On the same images")).to_be_visible()
    expect(page.get_by_text(re.compile(r"\d+ of 12 right"))).to_have_count(2)
    expect(page.locator("dl")).to_contain_text("crimson")
    assert serious_findings(page.context, page) == []

    page.goto(f"{coloured.url}/versions")
    page.get_by_role("button", name="Roll back", exact=True).click()
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_role("heading")).to_have_text("Roll back to the version before?")
    dialog.get_by_label("Reason").fill(" ")
    dialog.get_by_role("button", name="Roll back").click()
    expect(dialog.get_by_role("alert")).to_contain_text("Say why")
    dialog.get_by_label("Reason").fill("crimson was a mistake")
    dialog.get_by_role("button", name="Roll back").click()
    expect(page.get_by_text(f"Version {before['number']} is served.").first).to_be_visible(timeout=SLOW_MS)
    assert versions(coloured)["current"] == before["version_id"]
    page.get_by_role("button", name="Undo").click()
    wait_until(lambda: versions(coloured)["current"] == newest["version_id"])
    # the page loads itself anew then, which would end another navigation
    expect(page.locator(".serving")).to_contain_text(f"version {newest['number']}", timeout=SLOW_MS)

    page.goto(f"{coloured.url}/versions/{newest['version_id']}")
    expect(page.get_by_text("crimson was a mistake")).to_be_visible()
    page.get_by_role("button", name="Pin").click()
    dialog.get_by_label("Reason").fill("the reference")
    dialog.get_by_role("button", name="Pin").click()
    expect(page.get_by_text("pinned", exact=True).first).to_be_visible()
    assert serious_findings(page.context, page) == []
    page.get_by_role("button", name="Unpin").click()
    dialog.get_by_label("Reason").fill("the audit is over")
    dialog.get_by_role("button", name="Unpin").click()
    expect(page.get_by_text(f"Version {newest['number']} is not pinned any more.")).to_be_visible()
    expect(page.get_by_role("button", name="Pin", exact=True)).to_be_visible()

    page.goto(f"{coloured.url}/test-sets")
    page.get_by_role("button", name="Remove").click()
    dialog.get_by_label("Reason").fill("no longer needed")
    dialog.get_by_role("button", name="Remove").click()
    expect(page.get_by_text(re.compile("Removed field: 12 images"))).to_be_visible()


def test_a_held_version_says_what_holds_it_and_is_served_by_who_says_so(
    coloured: Service, window: Window, tmp_path: Path
) -> None:
    for name in ("fair", "foul"):
        squares(tmp_path / "same" / name, FIRST)
    with Client(coloured.url) as client:
        client.change_gate({"min_taught_accuracy": 1.0}, reason="each task is to be right")
        job_id = client.teach(tmp_path / "same", name="same", instant=False)["job_id"]
        *_, job = client.follow(job_id, poll_s=0.2)
    assert job["result"]
    held = job["result"]["version_id"]
    page = window(locale="de-DE")
    page.goto(f"{coloured.url}/teach/{job_id}")
    notice = page.locator(".notice").filter(has_text="Die Prüfung hält sie zurück")
    expect(notice).to_contain_text("Genauigkeit bei gelernten Bildern: ")
    assert versions(coloured)["current"] != held

    page.goto(f"{coloured.url}/versions/{held}")
    page.get_by_role("button", name="Diese Version antworten lassen").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("Genauigkeit bei gelernten Bildern: ")
    dialog.get_by_label("Grund").fill("sie sind wirklich gleich")
    dialog.get_by_role("button", name="Antworten lassen").click()
    expect(page.locator(".serving")).to_contain_text("Version 3", timeout=SLOW_MS)
    assert versions(coloured)["current"] == held
    expect(page.get_by_text("trotzdem bereitgestellt: sie sind wirklich gleich")).to_be_visible()


def test_corrections_that_wait_are_removed_or_learned(coloured: Service, window: Window, tmp_path: Path) -> None:
    known = classes(coloured)
    images = squares(tmp_path / "wrong", FIRST, count=3)
    for image in images:
        with image.open("rb") as file:
            answer = httpx.post(f"{coloured.url}/v1/corrections", files={"image": file}, data={"label": known[1]})
        assert answer.status_code == 201, answer.text
    page = window()
    page.goto(f"{coloured.url}/corrections")
    expect(page.locator("tbody tr")).to_have_count(3)
    page.get_by_role("button", name="Remove correction 2").click()
    page.get_by_role("dialog").get_by_role("button", name="Remove", exact=True).click()
    expect(page.locator("tbody tr")).to_have_count(2)
    page.get_by_role("button", name="Learn now").click()
    done = page.get_by_text(re.compile("2 corrections were learned")).or_(page.get_by_text(re.compile("gate holds")))
    expect(done).to_be_visible(timeout=SLOW_MS)
    page.goto(f"{coloured.url}/corrections")
    expect(page.get_by_text("No correction waits.")).to_be_visible()


def test_figures_of_every_answer_are_seen_and_a_lost_connection_is_told(
    coloured: Service, window: Windows, tmp_path: Path
) -> None:
    window.brought_about += ("htmx:afterRequest", "htmx:sendError")  # of parts that are asked for without a connection
    page = window()
    page.goto(f"{coloured.url}/live")
    (image,) = squares(tmp_path / "asked", FIRST, count=1)
    for _ in range(3):
        httpx.post(f"{coloured.url}/v1/classify", files={"images": image.read_bytes()}).raise_for_status()
    expect(page.locator('[data-figure="confidence"]')).to_have_text(re.compile("%$"))
    expect(page.locator('[data-figure="median"]')).to_have_text(re.compile(r"\d"))
    expect(page.locator("#processes tr")).to_have_count(1)
    expect(page.locator("#jobs li")).to_have_count(1)
    expect(page.locator(".journal li").first).to_be_visible()
    page.context.set_offline(True)
    expect(page.get_by_text("The connection is lost.")).to_be_visible()
    page.context.set_offline(False)
    expect(page.get_by_text("The connection is lost.")).to_be_hidden()


def test_keys_are_listed_without_a_secret_to_those_who_may_see_them(
    tmp_path: Path, tiny_spec: ModelSpec, window: Window
) -> None:
    keepsight, service = serve(tmp_path, tiny_spec, "--no-worker")
    try:
        keys = KeyFile(keepsight.folder / "var" / "keys.json")
        admin, reader = keys.create("ada", ["admin", "train"]), keys.create("rob", ["classify"])
        keys.revoke(keys.create("eve", ["train"]).key.id)
        page = window()
        page.goto(f"{service.url}/keys")
        page.get_by_label("API key").fill(admin.token)
        page.get_by_role("button", name="Sign in").click()
        expect(page.get_by_role("row", name=re.compile("ada you"))).to_contain_text("administer")
        expect(page.get_by_role("rowheader", name="rob")).to_be_visible()
        page.get_by_text("1 revoked key").click()
        expect(page.get_by_role("rowheader", name="eve")).to_be_visible()
        content = page.content()
        for secret in (admin.token, reader.token, admin.key.sha256, reader.key.sha256):
            assert secret not in content
        page.get_by_role("button", name="Sign out").click()
        page.get_by_label("API key").fill(reader.token)
        page.get_by_role("button", name="Sign in").click()
        page.goto(f"{service.url}/keys")
        expect(page.get_by_text("403")).to_be_visible()
        page.goto(f"{service.url}/classes")
        expect(page.get_by_role("button", name=re.compile("^Edit"))).to_have_count(0)
    finally:
        end(keepsight)

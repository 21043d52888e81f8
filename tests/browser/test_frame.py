"""What is true of every page: who is let in, accessibility, languages, themes, the keyboard, and what it weighs."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, Response, Route, expect

from app.web.languages import PLACE, languages
from app.web.sentences import SENTENCES, in_words_of
from keepsight.keys import KeyFile
from segp_cl.types import ModelSpec
from tests.browser import filled as filling
from tests.browser.conftest import Service, end, serve, squares
from tests.browser.driving import THEMES, WIDTHS, serious_findings
from tests.page_paths import PAGES

Window = Callable[..., Page]
FIRST_PAGE_BYTES = 200_000


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory, tiny_spec: ModelSpec) -> Iterator[Service]:
    """A service with keys."""
    keepsight, service = serve(tmp_path_factory.mktemp("guarded"), tiny_spec, "--no-worker")
    yield service
    end(keepsight)


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory, tiny_spec: ModelSpec) -> Iterator[tuple[str, filling.Filled]]:
    """The address of a service on which no page is an empty state, and some of its versions."""
    folder = tmp_path_factory.mktemp("filled")
    keepsight, service = serve(folder, tiny_spec)
    try:
        images = filling.coloured(folder / "images")
        versions = filling.fill(service.url, images, rename=("navy", "marine"), config={"strategy": "prototypes"})
        yield service.url, versions
    finally:
        end(keepsight)


def addresses(url: str, versions: filling.Filled) -> dict[str, str]:
    """The addresses of all pages of a service that has no keys, of a comparison, and of one version of each kind."""
    pages = {path: url + path for path in PAGES if path not in ("/sign-in", "/keys")}
    pages["compare"] = f"{url}/versions/compare?a={versions.trunk}&b={versions.edited}"
    return pages | {kind: f"{url}/versions/{version}" for kind, version in vars(versions).items()}


def sign_in(page: Page, token: str) -> None:
    page.get_by_label("API key").fill(token)
    page.get_by_role("button", name="Sign in").click()


def test_a_person_is_refused_without_a_key_and_let_in_with_one_until_it_is_revoked(
    guarded: Service, window: Window
) -> None:
    keys = KeyFile(guarded.keepsight.folder / "var" / "keys.json")
    created = keys.create("ada", ["classify", "train"])
    page = window()
    page.goto(f"{guarded.url}/teach")
    expect(page).to_have_url(re.compile(r"/sign-in\?next=%2Fteach$"))
    expect(page.get_by_role("navigation").get_by_role("link")).to_have_count(0)
    sign_in(page, created.token[:-2] + "xx")
    expect(page.get_by_role("alert")).to_contain_text("This key is unknown or was revoked.")
    sign_in(page, created.token)
    expect(page).to_have_url(f"{guarded.url}/teach")

    (cookie,) = page.context.cookies()
    assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")
    assert created.token not in cookie["value"]
    assert page.evaluate("document.cookie") == ""
    links = page.get_by_role("navigation").get_by_role("link").all_inner_texts()
    assert "Keys" not in links, "that page asks for the scope admin"
    expect(page.get_by_text("ada")).to_be_visible()

    page.get_by_role("button", name="Sign out").click()
    expect(page).to_have_url(f"{guarded.url}/sign-in")
    page.context.add_cookies([{"name": cookie["name"], "value": cookie["value"], "url": guarded.url}])
    page.goto(guarded.url)
    expect(page).to_have_url(f"{guarded.url}/sign-in")  # the server knows it no more

    sign_in(page, created.token)
    expect(page.get_by_role("heading", name="Try", exact=True)).to_be_visible()
    keys.revoke(created.key.id)
    page.reload()
    expect(page).to_have_url(f"{guarded.url}/sign-in")


def test_a_session_changes_nothing_without_its_token(guarded: Service, window: Window, tmp_path: Path) -> None:
    token = KeyFile(guarded.keepsight.folder / "var" / "keys.json").create("eve", ["classify", "train"]).token
    page = window()
    page.goto(guarded.url)
    sign_in(page, token)
    (image,) = squares(tmp_path / "red", "red", count=1)
    page.fill("#words", "red, blue")
    page.set_input_files("#choose", image)
    expect(page.locator(".result .best")).to_have_text(re.compile("red|blue"))
    asked = """async (token) => {
      const headers = token ? { "X-CSRF-Token": token } : {};
      return (await fetch("/v1/corrections", { method: "DELETE", headers })).status;
    }"""
    assert page.evaluate(asked, None) == 403
    assert page.evaluate(asked, "0" * 64) == 403
    assert page.evaluate(asked, page.locator('meta[name="csrf-token"]').get_attribute("content")) == 200


@pytest.mark.parametrize("theme", THEMES)
def test_axe_finds_nothing_serious_on_any_page(
    theme: str, filled: tuple[str, filling.Filled], guarded: Service, window: Window, tmp_path: Path
) -> None:
    url, versions = filled
    images = squares(tmp_path / "red", "red", count=2)
    page = window(color_scheme=theme, reduced_motion="reduce")  # a colour half way to another has another contrast
    page.on("dialog", lambda dialog: dialog.accept())
    found = {}
    for place, address in addresses(url, versions).items():
        page.goto(address, wait_until="load")
        if place == "/":
            page.set_input_files("#choose", images)
            expect(page.locator(".result .bars")).to_have_count(2)
        if place == "/teach":
            page.fill("#class-name", "ruby")
            page.press("#class-name", "Enter")
            page.set_input_files('[data-class="ruby"] input[type=file]', images)
            page.click("#check")
            expect(page.locator("#report table")).to_be_visible()
        if place == "/versions":
            expect(page.locator("#heat td.number").first).to_be_visible()
        if place == "/live":
            expect(page.locator(".journal li").first).to_be_visible()
        found[place] = serious_findings(page.context, page)
    page.goto(f"{url}/classes")
    page.get_by_role("button", name="Edit marine").click()
    page.get_by_role("dialog").get_by_label("New name").fill("ocean")
    expect(page.locator("#preview")).to_contain_text("ocean")
    found["dialog"] = serious_findings(page.context, page)
    page.goto(f"{url}/teach")
    page.get_by_role("link", name="labels mixed up").first.click()
    expect(page.get_by_role("link", name="To the versions")).to_be_visible()
    found["job"] = serious_findings(page.context, page)
    page.goto(f"{url}/teach/none")
    found["problem"] = serious_findings(page.context, page)
    token = filling.keys(guarded.keepsight.folder / "var" / "keys.json")
    page.goto(f"{guarded.url}/keys")
    found["/sign-in"] = serious_findings(page.context, page)
    sign_in(page, token)
    expect(page.get_by_role("rowheader", name="camera 2").first).to_be_visible()
    found["/keys"] = serious_findings(page.context, page)
    assert {place: said for place, said in found.items() if said} == {}


@pytest.mark.parametrize("language", ["en-GB", "de-DE"])
@pytest.mark.parametrize("width", WIDTHS)
def test_no_page_is_wider_than_its_window(
    width: str, language: str, filled: tuple[str, filling.Filled], guarded: Service, window: Window
) -> None:
    page = window(*WIDTHS[width], locale=language)
    token = filling.keys(guarded.keepsight.folder / "var" / "keys.json")
    wider = {}
    overflow = "document.documentElement.scrollWidth - innerWidth"
    for place, address in addresses(*filled).items():
        page.goto(address, wait_until="load")
        if place == "/versions":
            expect(page.locator("#heat td.number").first).to_be_visible()
        if place == "/live":
            expect(page.locator(".journal li").first).to_be_visible()
        wider[place] = page.evaluate(overflow)
    page.goto(f"{filled[0]}/classes")
    page.locator('[data-edit="marine"]').click()
    expect(page.get_by_role("dialog")).to_be_visible()
    wider["dialog"] = page.evaluate(overflow)
    page.goto(f"{guarded.url}/keys")
    wider["/sign-in"] = page.evaluate(overflow)
    page.fill("#key", token)
    page.press("#key", "Enter")
    expect(page.get_by_role("rowheader", name="camera 2").first).to_be_visible()
    wider["/keys"] = page.evaluate(overflow)
    assert {place: pixels for place, pixels in wider.items() if pixels > 0} == {}


def test_the_language_follows_the_browser_and_the_switch(taught: Service, window: Window) -> None:
    page = window(locale="de-DE")
    page.goto(f"{taught.url}/teach")
    expect(page.get_by_role("heading", level=1)).to_have_text("Lehren")
    assert page.locator("html").get_attribute("lang") == "de-DE"
    page.get_by_role("button", name="EN", exact=True).click()
    expect(page).to_have_url(f"{taught.url}/teach")
    expect(page.get_by_role("heading", level=1)).to_have_text("Teach")
    page.goto(taught.url)
    expect(page.get_by_role("heading", level=1)).to_have_text("Try")


def test_what_goes_wrong_is_said_in_the_reader_s_language(taught: Service, window: Window, tmp_path: Path) -> None:
    page = window(locale="de-DE")
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image at all")
    page.goto(taught.url)
    page.set_input_files("#choose", broken)
    expect(page.locator(".result")).to_contain_text("Erwartet wird ein Bild, gefunden wurde:")
    page.goto(f"{taught.url}/versions/000999-000000000000")
    expect(page.locator("main")).to_contain_text("Die Version 000999-000000000000 gibt es hier nicht.")
    # Scripts know the same sentences again as the server's own pages do.
    texts = "(text) => import(document.querySelector('script[src*=\"/js/app.js\"]').src.replace('app.js', 'texts.js'))"
    nested = "another version is being rolled out; nothing moved; the version is kept and can be promoted by hand"
    for known in (*SENTENCES, nested, "the classes are the folders in hidden"):
        said = known % {name: f"the {name}" for name in PLACE.findall(known)}
        told = page.evaluate(f"async (text) => (await ({texts})()).sentence(text)", said)
        assert told == in_words_of(languages()["de"], said)
    archive = tmp_path / "broken.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.write(broken, "ruby/broken.png")
    page.goto(f"{taught.url}/teach")
    page.set_input_files("#choose-archive", archive)
    page.click("#check")
    expect(page.locator("main")).to_contain_text("Darin ist kein brauchbares Bild.")
    expect(page.locator("main [lang]")).to_have_count(0)
    # A sentence that nobody translated is shown as it is, and read aloud as English.
    unknown = {"title": "The task cannot be taught", "status": 422, "detail": "the moon is full"}
    kind = "application/problem+json"
    page.route("**/v1/tasks", lambda route: route.fulfill(status=422, content_type=kind, body=json.dumps(unknown)))
    page.click("#check")
    expect(page.locator("main [lang=en]")).to_have_text("the moon is full")


def test_the_theme_follows_the_system_and_the_switch(taught: Service, window: Window) -> None:
    page = window(color_scheme="dark")
    page.goto(taught.url)
    background = "getComputedStyle(document.documentElement).backgroundColor"
    dark = page.evaluate(background)
    page.get_by_role("button", name="Light", exact=True).click()
    page.wait_for_load_state()
    assert page.evaluate(background) != dark
    page.get_by_role("button", name="Dark", exact=True).click()
    page.wait_for_load_state()
    page.emulate_media(color_scheme="light")
    assert page.evaluate(background) == dark


def test_everything_can_be_reached_with_the_keyboard(taught: Service, window: Window) -> None:
    page = window()
    page.goto(taught.url)
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#main")).to_be_focused()
    page.keyboard.press("Tab")
    expect(page.locator("#choose")).to_be_focused()
    page.goto(f"{taught.url}/teach")
    page.focus("#class-name")
    page.keyboard.type("crimson")
    page.keyboard.press("Enter")
    expect(page.locator('[data-class="crimson"]')).to_be_visible()
    expect(page.locator("#class-name")).to_be_focused()


def test_controls_wait_for_the_scripts_of_their_page(taught: Service, window: Window) -> None:
    page = window()
    held_back: list[Route] = []
    page.route("**/ready.js", lambda route: held_back.append(route))
    page.goto(f"{taught.url}/teach", wait_until="commit")
    name, add = page.locator("#class-name"), page.get_by_role("button", name="Add the class")
    expect(name).to_be_disabled()
    expect(add).to_be_disabled()
    expect(page.get_by_role("link", name="Versions")).to_be_enabled()
    while not held_back:
        page.wait_for_timeout(50)
    held_back[0].continue_()
    expect(add).to_be_enabled()
    name.fill("crimson")
    add.click()
    expect(page.locator('[data-class="crimson"]')).to_be_visible()


def test_small_windows_have_a_menu(taught: Service, window: Window) -> None:
    page = window(*WIDTHS["narrow"])
    page.goto(taught.url)
    link = page.get_by_role("link", name="Teach", exact=True)
    expect(link).to_be_hidden()
    menu = page.get_by_role("button", name="Menu")
    menu.click()
    expect(menu).to_have_attribute("aria-expanded", "true")
    link.click()
    expect(page).to_have_url(f"{taught.url}/teach")


def test_the_first_page_is_light_and_asks_nothing_of_others(taught: Service, window: Window) -> None:
    page = window()
    answers: list[Response] = []
    page.on("response", lambda answer: answers.append(answer))
    page.goto(taught.url, wait_until="networkidle")
    assert {answer.url.startswith(taught.url) for answer in answers} == {True}
    weight = sum(answer.request.sizes()["responseBodySize"] for answer in answers)
    assert 10_000 < weight < FIRST_PAGE_BYTES

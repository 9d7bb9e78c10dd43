"""The page in a headless browser, used with the keyboard, while the learner learns beside it."""

import re
import threading
import time

import photos
import pytest

from alprune.labelling import open_asking
from alprune.labelling.web import Server

WAIT_MS = 60_000


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Start a server over a folder, again and again; return it and its folder."""
    monkeypatch.setenv("ALPRUNE_CACHE", str(tmp_path / "cache"))
    root = photos.make(tmp_path / "photos", each=60)
    stops = []

    def start(**changes):
        options = photos.options(root, **changes)
        asking = open_asking(tmp_path / "run", classes=("dark", "light"), **options)
        server = Server(asking)
        ready = threading.Event()
        thread = threading.Thread(
            target=server.run, args=(lambda url: ready.set(),), kwargs={"browse": False}
        )
        thread.start()
        assert ready.wait(30)

        def stop():
            server.close()
            thread.join(30)
            assert not thread.is_alive()
            asking.close()

        stops.append(stop)
        return server, asking, stop

    yield start
    for stop in stops:
        stop()


@pytest.fixture
def open_page(browser):
    contexts, complaints = [], []

    def open_page(url, width=1000, scheme="light"):
        context = browser.new_context(viewport={"width": width, "height": 720}, color_scheme=scheme)
        contexts.append(context)
        context.set_default_timeout(WAIT_MS)
        page = context.new_page()
        page.on("console", lambda m: complaints.append(m.text) if m.type != "log" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda r: None if r.url.startswith((url, "data:")) else
                complaints.append(r.url))  # fmt: skip
        page.goto(url)
        page.wait_for_selector("#image:not([hidden])", timeout=WAIT_MS)
        page.complaints = complaints
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not complaints


def press(page, key):
    """Press a key and wait until the page shows what came of it."""
    before = page.inner_text("#counts")
    page.keyboard.press(key)
    page.wait_for_function("(old) => document.querySelector('#counts').innerText !== old",
                           arg=before, timeout=WAIT_MS)  # fmt: skip


def overhang(page):
    return page.evaluate(
        "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"
    )


def test_a_person_labels_with_the_keyboard_alone(start, open_page):
    server, asking, _ = start()
    page = open_page(server.url)
    press(page, "1")
    press(page, "2")
    press(page, "s")
    assert sorted(asking.labels.values()) == ["dark", "light"]
    assert "1 skipped" in page.inner_text("#counts")
    press(page, "Backspace")
    press(page, "z")
    assert list(asking.labels.values()) == ["dark"]


def test_rounds_go_on_while_the_learner_learns_and_nobody_waits(start, open_page):
    server, asking, _ = start(initial_epochs=5.0, epochs=2.0)
    page = open_page(server.url)
    page.keyboard.press("n")
    page.keyboard.type("striped")
    page.on("dialog", lambda dialog: dialog.accept())
    page.keyboard.press("Enter")
    page.wait_for_function("() => document.querySelectorAll('#classes button').length === 3")
    # The first image was labelled striped with it.
    page.wait_for_function("() => document.querySelector('#counts').innerText.startsWith('1 of')")
    press(page, "z")
    deadline = time.monotonic() + WAIT_MS / 1000
    while asking.journal.round < 3 and time.monotonic() < deadline:
        assert not page.is_hidden("#image")
        number = int(page.get_attribute("#image", "src").removeprefix("image/"))
        name = photos.truth(server.queue.query(number).path)
        press(page, str(photos.NAMES.index(name) + 1))
        page.wait_for_timeout(200)
    assert asking.journal.round >= 3
    assert all(photos.truth(path) == label for path, label in asking.labels.items())


def test_the_guess_is_hidden_until_it_is_wanted(start, open_page):
    server, asking, _ = start()
    page = open_page(server.url)
    assert page.is_hidden("#guess")
    page.keyboard.press("g")
    assert page.inner_text("#guess") == "no guess yet"
    assert page.get_attribute("#hint", "aria-pressed") == "true"
    page.keyboard.press("g")
    assert page.is_hidden("#guess")


def test_a_closed_browser_and_a_stopped_server_lose_nothing(start, open_page):
    server, asking, stop = start()
    page = open_page(server.url)
    press(page, "1")
    told = asking.labels
    page.close()
    page = open_page(server.url)
    assert page.inner_text("#counts").startswith("1 of 180")
    stop()
    shown = page.get_attribute("#image", "src")
    page.keyboard.press("2")
    page.wait_for_function(
        "() => document.querySelector('#note').innerText.startsWith('Not saved')"
    )
    assert page.get_attribute("#image", "src") == shown  # it is not passed over
    page.close()
    page.complaints[:] = [text for text in page.complaints if "ERR_" not in text]
    server, asking, _ = start()
    assert asking.labels == told
    page = open_page(server.url)
    assert page.inner_text("#counts").startswith("1 of 180")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_the_page_fits_the_window_and_has_names_for_everything(start, open_page, width, scheme):
    server, _, _ = start()
    page = open_page(server.url, width, scheme)
    assert overhang(page) == 0
    box = page.locator("#image").bounding_box()
    assert box["width"] > 200 and box["height"] > 150  # large, though it has 12 pixels a side
    assert page.evaluate("() => getComputedStyle(document.querySelector('#image')).imageRendering"
                         ) == "pixelated"  # fmt: skip
    tree = page.locator("body").aria_snapshot()
    for name in ('button "dark"', 'button "Skip"', 'button "Undo"', "Name of a class"):
        assert name in tree, tree
    assert re.search(r'img "Image \d+, to be labelled"', tree)
    ground = page.evaluate("() => getComputedStyle(document.body).backgroundColor")
    light = sum(map(int, re.findall(r"\d+", ground)[:3])) > 384
    assert light == (scheme == "light")


def test_a_page_without_the_token_shows_nothing(start, browser):
    server, _, _ = start()
    context = browser.new_context()
    response = context.new_page().goto(server.url.rsplit("/", 2)[0] + "/")
    assert response.status == 403
    context.close()

"""The page in a headless browser, used with the keyboard, while the learner learns beside it."""

import errno
import re
import threading
import time
from dataclasses import replace

import photos
import pytest

from alprune.data import atomic_io
from alprune.labelling import open_asking
from alprune.labelling.insight import Checked, Insight
from alprune.labelling.web import Server
from alprune.labelling.web.leases import Client
from alprune.labelling.web.opener import write_opener

WAIT_MS = 200_000  # as long as the other time-outs: the machine may be busy


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Start a server over a folder, again and again; return it and its folder."""
    monkeypatch.setenv("ALPRUNE_CACHE", str(tmp_path / "cache"))
    root = photos.make(tmp_path / "photos", each=60)
    stops = []

    def start(serve=None, **changes):
        options = photos.options(root, **changes)
        asking = open_asking(tmp_path / "run", classes=("dark", "light"), **options)
        server = Server(asking, **serve or {})
        ready = threading.Event()
        thread = threading.Thread(
            target=server.run, args=(lambda url: ready.set(),), kwargs={"browse": False}
        )
        thread.start()
        assert ready.wait(200)

        def stop():
            server.close()
            thread.join(200)
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

    def open_page(url, width=1000, scheme="light", wait=True):
        context = browser.new_context(viewport={"width": width, "height": 720}, color_scheme=scheme)
        contexts.append(context)
        context.set_default_timeout(WAIT_MS)
        page = context.new_page()
        page.on("console", lambda m: complaints.append(m.text) if m.type != "log" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        site = url.partition("join#")[0]
        page.on("request", lambda r: None if r.url.startswith((site, "data:")) else
                complaints.append(r.url))  # fmt: skip
        page.goto(url)
        if wait:
            page.wait_for_selector("#image:not([hidden])", timeout=WAIT_MS)
        page.complaints = complaints
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []


def press(page, key):
    """Press a key and wait until the server has what came of it."""
    with page.expect_response(lambda response: response.request.method == "POST") as answered:
        page.keyboard.press(key)
    answered.value.finished()
    settle(page)


def wait_until(page, script, arg=None):
    """Wait for a condition; looking at it for every frame would keep the processor busy.

    An element that the page does not have yet is waited for: a page is half read for a while.
    """
    patient = f"""(arg) => {{
        try {{ return ({script})(arg); }}
        catch (error) {{ if (!/properties of null/.test(error.message)) throw error; }}
    }}"""
    page.wait_for_function(patient, arg=arg, polling=100)


def settle(page, ms=100):
    """Let the page itself wait, which it does after what it has to do already."""
    page.evaluate("ms => new Promise((done) => setTimeout(done, ms))", ms)


def overhang(page):
    return page.evaluate(
        "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"
    )


def test_the_tests_wait_for_elements_that_are_not_there_yet(browser):
    page = browser.new_page()
    page.evaluate("() => { setTimeout(() => { document.body.innerHTML = '<p>Ready'; }, 400); }")
    wait_until(page, "(text) => document.querySelector('p').innerText === text", arg="Ready")
    page.close()


def test_a_person_labels_with_the_keyboard_alone(start, open_page):
    server, asking, _ = start(query_size=8)  # the next round begins after four answers
    page = open_page(server.url)
    press(page, "1")
    press(page, "2")
    press(page, "s")
    assert sorted(asking.labels.values()) == ["dark", "light"]
    assert page.inner_text("#status").startswith("2 of 180 labelled, 3 of 8 in this round")
    press(page, "z")
    press(page, "z")
    assert list(asking.labels.values()) == ["dark"]


def test_keys_pressed_while_an_answer_is_on_its_way_count(start, open_page):
    server, asking, _ = start()
    page = open_page(server.url)
    settle(page)
    for key in "1212":
        page.keyboard.press(key)
    wait_until(
        page,
        "() => document.querySelector('#status').innerText.startsWith('4 of')",
    )
    assert list(asking.labels.values()) == ["dark", "light", "dark", "light"]


def test_answers_on_their_way_arrive_although_the_page_is_closed(start, open_page):
    server, asking, _ = start()
    page = open_page(server.url)
    settle(page)
    with asking.lock:  # the server is slow
        for key in "1212":
            page.keyboard.press(key)
        page.goto("about:blank")
    end = time.monotonic() + 20
    while len(asking.labels) < 4 and time.monotonic() < end:
        time.sleep(0.05)
    assert sorted(asking.labels.values()) == ["dark", "dark", "light", "light"]


def test_an_answer_that_is_long_on_its_way_is_said(start, open_page):
    server, asking, _ = start()
    page = open_page(server.url)
    settle(page)
    with asking.lock:
        page.keyboard.press("1")
        wait_until(page, "() => document.querySelector('#note').innerText.includes('saved yet')")
    wait_until(page, "() => document.querySelector('#status').innerText.startsWith('1 of')")
    assert page.is_hidden("#note")


def answer_two(page, asking):
    """Answer two images, and wait until the page is told so; return the first one's path."""
    press(page, "1")
    press(page, "1")
    with page.expect_request("**/state") as asked:  # an earlier one may not know the answers
        settle(page)
    asked.value.response().finished()
    settle(page)
    first, _ = asking.labels
    return first


def test_keys_pressed_before_an_earlier_answer_has_come_go_on_from_there(start, open_page):
    server, asking, _ = start()
    page = open_page(server.url)
    first = answer_two(page, asking)
    held = []
    page.route("**/answered/*", lambda route: held.append(route))
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    end = time.monotonic() + 20
    while len(held) < 2 and time.monotonic() < end:
        settle(page)
    assert len(held) == 2
    for route in held:
        route.continue_()
    wait_until(page, "(path) => document.querySelector('#caption').innerText === path", arg=first)


def test_any_of_the_last_answers_can_be_corrected(start, open_page):
    server, asking, _ = start()
    page = open_page(server.url)
    first = answer_two(page, asking)
    page.keyboard.press("ArrowLeft")
    page.wait_for_selector("#past:not([hidden])")
    assert page.get_attribute("#classes button:nth-child(1)", "aria-pressed") == "true"
    page.keyboard.press("ArrowLeft")
    wait_until(page, "(path) => document.querySelector('#caption').innerText === path", arg=first)
    press(page, "2")
    assert asking.labels[first] == "light"
    page.keyboard.press("ArrowRight")
    page.wait_for_selector("#past", state="hidden")
    assert page.locator("#classes .chosen").count() == 0  # nothing is highlighted on a new image


def test_a_correction_does_not_change_the_order_of_going_back(start, open_page):
    server, asking, _ = start(query_size=12)
    page = open_page(server.url)
    for _ in range(3):
        press(page, "1")
    shown = "(path) => document.querySelector('#caption').innerText === path"
    first, second, third = asking.labels
    for path in (third, second, first):
        page.keyboard.press("ArrowLeft")
        wait_until(page, shown, arg=path)
    press(page, "2")
    wait_until(page, shown, arg=second)
    page.keyboard.press("ArrowRight")
    wait_until(page, shown, arg=third)
    page.keyboard.press("ArrowRight")
    page.wait_for_selector("#past", state="hidden")
    assert asking.labels == {second: "dark", third: "dark", first: "light"}


def test_a_confident_guess_is_accepted_by_enter(start, open_page):
    server, asking, _ = start()

    page = open_page(server.url)
    number = int(page.get_attribute("#image", "src").removeprefix("image/"))
    query = server.queue.query(number)
    with asking.lock:
        server.queue._queries[number] = replace(query, guess="light", probability=0.9)
    page.wait_for_selector("#guess:not([hidden])")
    assert page.inner_text("#guess") == "light, 90%"
    page.keyboard.press("g")
    assert page.is_hidden("#guess")
    page.keyboard.press("Enter")  # a guess that is hidden is not accepted
    page.keyboard.press("g")
    assert asking.labels == {}
    press(page, "Enter")
    assert asking.labels == {query.path: "light"}


def first(server, count):
    """Return the first images that have numbers."""
    return list(server.queue._queries.values())[:count]


def show_five_in_the_grid(server, page):
    guessed = [replace(query, guess="dark", probability=0.9) for query in first(server, 5)]
    server._overview.update(Insight(guessed=guessed))
    page.click("#to-grid")
    page.wait_for_selector(".tile >> nth=4")


def test_a_grid_labels_all_that_are_not_marked_as_wrong(start, open_page):
    server, asking, _ = start()
    page = open_page(server.url)
    show_five_in_the_grid(server, page)
    held = []  # an answer that is late, after that of a later question, is not shown
    page.route("**/grid?class=light", lambda route: held.append(route))
    page.select_option("#grid-class", "light")
    page.select_option("#grid-class", "dark")
    settle(page)
    held[0].continue_()
    settle(page)
    page.wait_for_selector(".tile >> nth=4")
    page.click(".tile >> nth=1")
    assert "Label 4 as dark" in page.inner_text("#grid-done")
    press(page, "Enter")
    assert len(asking.labels) == 4
    assert first(server, 2)[1].path not in asking.labels


def test_a_finger_that_scrolls_the_grid_marks_nothing(start, open_page):
    server, _, _ = start()
    page = open_page(server.url)
    show_five_in_the_grid(server, page)
    tile = page.locator(".tile >> nth=1")
    for _ in range(2):  # on a tile that is marked, and on one that is not
        marked = tile.get_attribute("aria-pressed")
        for kind in ("pointerdown", "pointercancel"):
            tile.dispatch_event(kind, {"pointerType": "touch"})
        assert tile.get_attribute("aria-pressed") == marked
        tile.dispatch_event("click", {"detail": 1})
        assert tile.get_attribute("aria-pressed") != marked
    page.click(".tile >> nth=2")
    page.keyboard.press("Space")
    assert "Label 5 as dark" in page.inner_text("#grid-done")


def test_enter_before_the_images_of_a_class_have_come_labels_none(start, open_page):
    server, asking, _ = start()
    page = open_page(server.url)
    show_five_in_the_grid(server, page)
    for _ in range(2):  # so that Enter means the images
        page.click(".tile >> nth=1")
    held = []
    page.route("**/grid?class=light", lambda route: held.append(route))
    with page.expect_request("**/grid?class=light"):
        page.keyboard.press("2")
    page.keyboard.press("Enter")
    while not held:  # a busy machine hands it over later
        settle(page)
    settle(page, 500)
    assert asking.labels == {}
    held[0].continue_()
    settle(page)


def test_answers_of_grid_and_review_are_sent_though_the_page_is_closed_meanwhile(start, open_page):
    server, asking, _ = start()
    page = open_page(server.url)
    page.evaluate(
        """() => {
            const send = window.fetch;
            window.sent = [];
            window.fetch = (what, how) => {
                if (what === "answers") window.sent.push(how.keepalive === true);
                return send(what, how);
            };
        }"""
    )
    show_five_in_the_grid(server, page)
    press(page, "Enter")
    page.click("#to-review")
    page.click(".tile >> nth=0")
    press(page, "2")
    assert len(asking.labels) == 5 and page.evaluate("window.sent") == [True, True]


def test_a_suspect_label_is_corrected_in_the_review(start, open_page):
    server, asking, _ = start()
    page = open_page(server.url)
    press(page, "1")
    press(page, "2")
    content = first(server, 1)[0].content
    checked = {content: Checked(content, "light", 0.9, 0.1, True)}
    server._overview.update(Insight(checked=checked, complete=True))
    page.click("#to-review")
    page.wait_for_selector(".tile .suspect")
    assert "1 suspect" in page.inner_text("#review-said")
    page.click(".tile >> nth=0")
    press(page, "Enter")
    assert list(asking.labels.values()).count("light") == 2


def test_enter_in_the_review_changes_nothing_that_is_not_doubted(start, open_page):
    server, asking, _ = start()
    page = open_page(server.url)
    press(page, "1")
    press(page, "1")
    checked = {c: Checked(c, "light", 0.6, 0.4, False) for c in asking.journal.answers}
    server._overview.update(Insight(checked=checked))
    page.click("#to-review")
    page.click(".tile >> nth=0")
    page.keyboard.press("Enter")
    wait_until(page, "() => document.querySelector('#note').innerText.includes('not doubt')")
    assert list(asking.labels.values()) == ["dark", "dark"]


def test_more_of_the_review_passes_over_nothing(start, open_page):
    server, asking, _ = start()
    page = open_page(server.url)
    asking.tell(dict.fromkeys(asking.every_path()[:63]), unasked=True)
    page.click("#to-review")
    page.select_option("#review-order", "skipped")
    page.wait_for_selector("#review .tile >> nth=59")
    page.click("#review .tile >> nth=0")
    for _ in range(3):  # which are skipped no more
        press(page, "1")
    page.click("#review-more")
    page.wait_for_selector("#review .tile >> nth=62")
    assert page.is_hidden("#review-more")


def show_four_on_the_map(server, page):
    """Open the map with three images close together and one apart."""
    some = first(server, 4)
    server._overview.update(
        Insight(
            places={q.content: (0.1 + 0.05 * n if n < 3 else 0.9, 0.5) for n, q in enumerate(some)},
            paths={q.content: q.path for q in some},
        )
    )
    page.click("#to-map")
    page.wait_for_selector("#map-legend >> text=light")


def select_the_left(page):
    """Drag over the left half of the map."""
    box = page.locator("#map").bounding_box()
    page.mouse.move(box["x"] + 10, box["y"] + 10)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] - 10, steps=5)
    page.mouse.up()


def test_images_selected_on_the_map_are_labelled_together(start, open_page):
    server, asking, _ = start()
    page = open_page(server.url)
    show_four_on_the_map(server, page)
    select_the_left(page)
    assert page.inner_text("#map-said").startswith("3 unlabelled")
    page.click("#map-take")
    page.wait_for_selector(".tile >> nth=2")
    press(page, "Enter")
    assert len(asking.labels) == 3


def test_a_selection_stays_while_its_class_is_chosen(start, open_page):
    server, asking, _ = start()
    page = open_page(server.url)
    show_four_on_the_map(server, page)
    select_the_left(page)
    page.click("#map-take")
    page.wait_for_selector(".tile >> nth=2")
    page.keyboard.press("2")
    settle(page)
    assert "Label 3 as light" in page.inner_text("#grid-done")
    press(page, "Enter")
    assert list(asking.labels.values()) == ["light"] * 3


def test_a_selection_of_more_than_a_page_is_labelled_page_by_page(start, open_page):
    server, asking, _ = start(query_size=200)  # no other round comes between
    page = open_page(server.url)
    some = {asking.identify(path): path for path in asking.every_path()[:70]}
    server._overview.update(Insight(places=dict.fromkeys(some, (0.2, 0.5)), paths=some))
    page.click("#to-map")
    page.wait_for_selector("#map-legend >> text=light")
    select_the_left(page)
    page.click("#map-take")
    page.wait_for_selector(".tile >> nth=59")
    assert page.inner_text("#grid-said").startswith("60 of 70 selected")
    press(page, "Enter")
    page.wait_for_selector(".tile >> nth=9")
    assert page.inner_text("#grid-said").startswith("10 of 10 selected")
    press(page, "Enter")
    assert {asking.identify(path) for path in asking.labels} == set(some)


def test_images_are_selected_on_the_map_by_the_keyboard(start, open_page):
    server, asking, _ = start()
    page = open_page(server.url)
    show_four_on_the_map(server, page)
    page.focus("#map")
    for _ in range(7):  # each moves the frame, at first in the middle, by a twentieth
        page.keyboard.press("ArrowLeft")
    assert page.inner_text("#map-said").startswith("3 unlabelled")
    for _ in range(7):
        page.keyboard.press("-")
    assert page.inner_text("#map-said").startswith("1 unlabelled")
    page.click("#map-take")
    page.wait_for_selector("#grid .tile")
    press(page, "Enter")
    assert len(asking.labels) == 1


def test_classes_are_renamed_and_removed_in_a_dialog(start, open_page):
    server, asking, _ = start()
    page = open_page(server.url)
    press(page, "1")
    page.click("#edit")
    page.fill("#editing tr:nth-child(1) input:not(.key)", "black")
    with page.expect_response(lambda response: response.url.endswith("rename")):
        page.keyboard.press("Tab")
    page.wait_for_selector("#editing tr:nth-child(1) button[disabled]")
    page.wait_for_selector("#classes >> text=black")
    with page.expect_response(lambda response: response.url.endswith("remove")):
        page.click("#editing tr:nth-child(2) button")
    assert asking.journal.offered == ["black"]
    assert set(asking.labels.values()) == {"black"}


def test_a_change_of_classes_that_fails_is_said_in_the_dialog(start, open_page):
    server, asking, _ = start()
    page = open_page(server.url)
    page.click("#edit")
    page.fill("#editing tr:nth-child(2) input.key", "s")  # which skips
    page.keyboard.press("Tab")
    wait_until(page, "() => document.querySelector('#editor').innerText.includes('cannot be')")
    assert page.evaluate("() => document.activeElement.ariaLabel") == "Name of light"
    page.complaints.clear()


def test_rounds_go_on_while_the_learner_learns_and_nobody_waits(start, open_page):
    server, asking, _ = start(initial_epochs=5.0, epochs=2.0)
    page = open_page(server.url)
    page.keyboard.press("n")
    page.keyboard.type("striped")
    page.on("dialog", lambda dialog: dialog.accept())
    page.keyboard.press("Enter")
    wait_until(page, "() => document.querySelectorAll('#classes button').length === 3")
    # The first image was labelled striped with it.
    wait_until(page, "() => document.querySelector('#status').innerText.startsWith('1 of')")
    [path] = asking.labels
    page.keyboard.press("ArrowLeft")
    page.wait_for_selector("#past:not([hidden])")
    press(page, str(photos.NAMES.index(photos.truth(path)) + 1))
    page.keyboard.press("ArrowRight")
    while asking.journal.round < 3:
        assert not page.is_hidden("#image")
        number = int(page.get_attribute("#image", "src").removeprefix("image/"))
        name = photos.truth(server.queue.query(number).path)
        press(page, str(photos.NAMES.index(name) + 1))
        settle(page, 200)
    assert all(photos.truth(path) == label for path, label in asking.labels.items())


def test_the_page_says_when_all_images_have_labels_and_how_to_end(start, open_page, tmp_path):
    for path in (tmp_path / "photos" / "unlabelled").iterdir():
        if int(path.stem[3:]) > 1:
            path.unlink()
    server, asking, _ = start(initial_epochs=5.0, epochs=2.0)
    page = open_page(server.url)
    for _ in range(6):
        press(page, "1")
    wait_until(page, "() => document.querySelector('#waiting').innerText.startsWith('Done')")
    assert "labels.csv" in page.inner_text("#waiting")
    assert page.is_hidden("#note")
    assert len(asking.labels) == 6


def test_a_closed_browser_and_a_stopped_server_lose_nothing(start, open_page):
    server, asking, stop = start()
    page = open_page(server.url)
    press(page, "1")
    told = asking.labels
    page.close()
    page = open_page(server.url)
    assert page.inner_text("#status").startswith("1 of 180")
    server.queue.message = "The learner rests."
    wait_until(page, "() => document.querySelector('#note').innerText.includes('rests')")
    stop()
    wait_until(page, "() => document.querySelector('#note').innerText.includes('not answer')")
    shown = page.get_attribute("#image", "src")
    page.keyboard.press("2")
    wait_until(page, "() => document.querySelector('#note').innerText.includes('not be saved')")
    assert page.get_attribute("#image", "src") == shown  # it is not passed over
    page.close()
    page.complaints[:] = [text for text in page.complaints if "ERR_" not in text]
    server, asking, _ = start()
    assert asking.labels == told
    page = open_page(server.url)
    assert page.inner_text("#status").startswith("1 of 180")


@pytest.mark.parametrize(("width", "scheme"), [(360, "dark"), (1280, "light")])
def test_the_page_fits_the_window_and_has_names_for_everything(start, open_page, width, scheme):
    server, _, _ = start()
    page = open_page(server.url, width, scheme)
    assert overhang(page) == 0
    box = page.locator("#image").bounding_box()
    assert box["width"] > 200 and box["height"] > 150  # large, though it has 12 pixels a side
    tree = page.locator("body").aria_snapshot()
    for name in ('button "dark"', 'button "Skip"', 'button "Undo"', "Name of a class"):
        assert name in tree, tree
    assert re.search(r'img "unlabelled/.*, to be labelled"', tree)
    ground = page.evaluate("() => getComputedStyle(document.body).backgroundColor")
    light = sum(map(int, re.findall(r"\d+", ground)[:3])) > 384
    assert light == (scheme == "light")
    server.queue.add_class("x" * 100)
    page.wait_for_selector("#classes button >> nth=2")
    classes = "document.querySelector('#classes')"
    assert page.evaluate(f"() => {classes}.scrollWidth <= {classes}.clientWidth")


def test_a_page_without_the_token_shows_nothing(start, browser):
    server, _, _ = start()
    context = browser.new_context()
    page = context.new_page()
    page.goto(server.url.partition("join#")[0])
    wait_until(page, "() => document.querySelector('#said').innerText.includes('prints')")
    assert page.locator("#image").count() == 0
    context.close()


def test_a_file_leads_the_browser_of_this_machine_in_once(start, browser, tmp_path):
    server, _, _ = start()
    base = server.url.partition("join#")[0]
    opener = tmp_path / "open-page.html"
    write_opener(opener, f"{base}join#{server._access.once()}")
    context = browser.new_context()
    page = context.new_page()
    page.goto(opener.as_uri())
    page.wait_for_selector("#image:not([hidden])", timeout=WAIT_MS)
    assert page.url == base  # no token is left in the history of the tab
    [cookie] = context.cookies()
    assert cookie["httpOnly"] and cookie["sameSite"] == "Strict"
    context.close()
    other = browser.new_context().new_page()
    other.goto(opener.as_uri())
    wait_until(other, "() => document.querySelector('#said').innerText.includes('before')")
    other.context.close()


def test_a_name_is_kept_but_not_taken_for_the_next_person_unasked(start, browser):
    server, _, _ = start(serve={"host": "0.0.0.0"})
    context = browser.new_context()
    page = context.new_page()
    page.goto(server.url)
    page.wait_for_selector("#naming:not([hidden])")
    page.fill("#who", "ben")
    page.keyboard.press("Enter")
    page.wait_for_selector("#image:not([hidden])", timeout=WAIT_MS)
    page.goto(server.url)
    page.wait_for_selector("#naming:not([hidden])")
    assert page.input_value("#who") == "ben"
    page.keyboard.type("anna")
    page.keyboard.press("Enter")
    page.wait_for_selector("#image:not([hidden])", timeout=WAIT_MS)
    page.keyboard.press("?")
    wait_until(page, "() => document.querySelector('#facts').innerText.includes('as anna')")
    context.close()


def colleague(browser, server, name):
    """Open the page as somebody else, in a browser of their own."""
    page = browser.new_context().new_page()
    page.set_default_timeout(WAIT_MS)
    page.goto(server.url)
    page.wait_for_selector("#naming:not([hidden])")
    page.fill("#who", name)
    page.keyboard.press("Enter")
    page.wait_for_selector("#image:not([hidden])")
    return page


def test_two_people_get_different_images_and_settle_what_they_disagree_on(start, browser):
    server, asking, _ = start(serve={"host": "0.0.0.0"})
    asking.set_overlap(100)
    anna, ben = (colleague(browser, server, name) for name in ("anna", "ben"))
    shown = anna.get_attribute("#image", "src")
    assert shown != ben.get_attribute("#image", "src")
    press(anna, "1")
    ben.reload()  # which gives its images back, so that the second answer comes first
    wait_until(
        ben, "(src) => document.querySelector('#image').getAttribute('src') === src", arg=shown
    )
    press(ben, "2")
    assert list(asking.labels.values()) == ["dark"]
    anna.click("#help")
    wait_until(
        anna,
        "() => document.querySelector('#facts').innerText.includes('agreement: 0% of 1')"
        " || (document.querySelector('#about').close(), document.querySelector('#help').click())",
    )
    anna.keyboard.press("Escape")
    anna.click("#to-review")
    anna.select_option("#review-order", "disagreements")
    anna.wait_for_selector(".tile .suspect")
    assert anna.inner_text(".tile") == "anna: dark; ben: light"
    anna.click(".tile")
    press(anna, "2")
    assert list(asking.labels.values()) == ["light"]
    assert not asking.journal.opinions.unsettled
    for page in (anna, ben):
        page.context.close()


def test_an_image_that_somebody_else_answered_is_replaced_with_a_message(start, open_page):
    server, asking, _ = start()
    page = open_page(server.url)
    number = int(page.get_attribute("#image", "src").removeprefix("image/"))
    server.queue.answer({number: "dark"}, Client("s2", "", "w2"), fresh=True)
    wait_until(page, "() => document.querySelector('#note').innerText.includes('else')")
    assert page.get_attribute("#image", "src") != f"image/{number}"
    press(page, "2")
    assert list(asking.labels.values()) == ["dark", "light"]


def test_an_image_answered_in_the_grid_did_not_go_to_somebody_else(start, open_page):
    server, asking, _ = start()
    page = open_page(server.url)
    number = int(page.get_attribute("#image", "src").removeprefix("image/"))
    guess = replace(server.queue.query(number), guess="dark", probability=0.9)
    server._overview.update(Insight(guessed=[guess]))
    page.click("#to-grid")
    page.wait_for_selector(".tile")
    press(page, "Enter")
    page.click("#to-label")
    settle(page)
    assert page.is_hidden("#note") and page.get_attribute("#image", "src") != f"image/{number}"


def test_an_image_that_breaks_is_said_and_can_be_skipped(start, open_page):
    server, asking, stop = start()
    page = open_page(server.url)
    page.close()
    stop()
    for query in asking.journal.pending:
        (asking.root / query.path).write_bytes(b"no image")
    server, asking, _ = start()
    page = open_page(server.url, wait=False)
    wait_until(page, "() => document.querySelector('#note').innerText.includes('Skip it')")
    press(page, "s")
    assert list(asking.journal.counts.elements()) == [None]
    page.close()
    page.complaints[:] = [text for text in page.complaints if "400" not in text]


def test_a_page_that_is_returned_to_asks_no_more_often_than_before(start, open_page):
    server, _, _ = start()
    page = open_page(server.url)
    page.evaluate(
        """() => {
            const set = window.setTimeout.bind(window), clear = window.clearTimeout.bind(window);
            window.waiting = new Set();
            window.setTimeout = (work, ms) => {
                const made = set(() => { window.waiting.delete(made); work(); }, ms);
                if (ms >= 1000) window.waiting.add(made);
                return made;
            };
            window.clearTimeout = (made) => { window.waiting.delete(made); clear(made); };
            const send = window.fetch;
            window.answered = 0;
            window.fetch = (...all) => send(...all).finally(() => { window.answered += 1; });
            for (let back = 0; back < 3; back += 1) {
                window.dispatchEvent(new PageTransitionEvent("pageshow", {persisted: true}));
            }
        }"""
    )
    wait_until(page, "() => window.answered >= 3")
    settle(page)
    assert page.evaluate("() => window.waiting.size") <= 1


def test_a_full_disk_is_said_and_the_answer_is_given_again(start, open_page, monkeypatch):
    server, asking, _ = start()
    page = open_page(server.url)
    press(page, "1")
    shown = page.get_attribute("#image", "src")

    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(atomic_io.os, "fsync", full)
        press(page, "2")
        wait_until(page, "() => document.querySelector('#note').innerText.includes('space')")
        assert page.get_attribute("#image", "src") == shown
        assert list(asking.labels.values()) == ["dark"]
    press(page, "2")
    assert list(asking.labels.values()) == ["dark", "light"]
    assert asking.labels[server.queue.query(int(shown.removeprefix("image/"))).path] == "light"
    page.wait_for_selector("#note", state="hidden")
    page.complaints[:] = [text for text in page.complaints if "507" not in text]


def test_a_page_of_before_a_restart_says_so_and_loses_nothing(start, open_page):
    server, asking, stop = start()
    port = int(server.url.split(":")[2].split("/")[0])
    page = open_page(server.url)
    press(page, "1")
    stop()
    server, asking, _ = start(serve={"port": port})
    shown = page.get_attribute("#image", "src")
    press(page, "2")
    wait_until(page, "() => document.querySelector('#note').innerText.includes('again')")
    assert page.get_attribute("#image", "src") == shown
    assert list(asking.labels.values()) == ["dark"]
    page.goto(server.url)
    page.wait_for_selector("#image:not([hidden])")
    page.complaints.clear()
    press(page, "2")
    assert list(asking.labels.values()) == ["dark", "light"]


def test_a_page_of_before_a_restart_labels_no_other_images_than_it_shows(start, open_page):
    server, asking, stop = start(query_size=40)
    port = int(server.url.split(":")[2].split("/")[0])
    page = open_page(server.url)
    grid = page.context.new_page()
    grid.goto(server.url)
    grid.wait_for_selector("#image:not([hidden])")
    show_five_in_the_grid(server, grid)
    press(page, "1")
    earlier = page.get_attribute("#image", "src")
    stop()
    server, asking, _ = start(serve={"port": port}, query_size=40)
    new = page.context.new_page()
    new.goto(server.url)  # lets the pages of before in again: they have the same cookie
    new.wait_for_selector("#image:not([hidden])")
    before = dict(asking.labels)
    source = "document.querySelector('#image').getAttribute('src')"
    wait_until(page, f"(earlier) => {source} !== earlier", arg=earlier)
    path, src = page.inner_text("#caption"), page.get_attribute("#image", "src")
    assert server.queue.query(int(src.removeprefix("image/"))).path == path
    press(page, "2")
    assert asking.labels == before | {path: "light"}
    with grid.expect_response("**/answers") as answered:
        grid.keyboard.press("Enter")
    assert "load the page" in answered.value.json()["error"]
    assert asking.labels == before | {path: "light"}
    page.complaints.clear()


def test_the_page_says_that_the_stop_rule_is_met_and_continues(start, open_page):
    server, asking, _ = start(stop_labels=2)
    page = open_page(server.url)
    press(page, "1")
    press(page, "2")
    page.wait_for_selector("#stopped:not([hidden])")
    assert "2 images are labelled (--stop-labels 2)" in page.inner_text("#why-stop")
    assert page.is_hidden("#image")
    page.click("#continue")
    page.wait_for_selector("#image:not([hidden])")
    press(page, "1")
    assert len(asking.labels) == 3

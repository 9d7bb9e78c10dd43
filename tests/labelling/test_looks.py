"""Contrast of the page's colours, and names and focus of what one can press."""

import re
from html.parser import HTMLParser
from importlib.resources import files

import pytest

WEB = files("alprune.labelling.web")
CSS = WEB.joinpath("static", "page.css").read_text("utf-8")
LEAST = 3.0  # of borders, signs and points (WCAG 2.2, 1.4.11)
OF_TEXT = 4.5  # WCAG 2.2, 1.4.3
_FACES = ("ground", "panel", "stage")


def colours(scheme):
    """Return the named colours of "light" or "dark"."""
    light, dark = re.findall(r":root \{(.*?)\}", CSS, re.DOTALL)
    found = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", light if scheme == "light" else dark))
    assert len(found) >= 9
    return found


def luminance(colour):
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def mixed(over, under, opacity):
    pairs = [(int(over[i : i + 2], 16), int(under[i : i + 2], 16)) for i in (1, 3, 5)]
    return "#" + "".join(f"{round(a * opacity + b * (1 - opacity)):02x}" for a, b in pairs)


def test_contrast_is_that_of_known_pairs():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_borders_and_focus_stand_out_from_every_ground(scheme):
    named = colours(scheme)
    for face in _FACES:
        assert contrast(named["line"], named[face]) >= LEAST, face
        assert contrast(named["accent"], named[face]) >= LEAST, face
        assert contrast(named["alarm"], named[face]) >= LEAST, face


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_on_every_ground(scheme):
    named = colours(scheme)
    for face in _FACES:
        for text in ("ink", "soft", "alarm"):
            assert contrast(named[text], named[face]) >= OF_TEXT, (text, face)
    assert contrast(named["on-accent"], named["accent"]) >= OF_TEXT


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_points_of_the_map_stand_out(scheme):
    script, named = WEB.joinpath("static", "map.js").read_text("utf-8"), colours(scheme)
    points = re.findall(r'"(#[0-9a-f]{6})"', re.search(r"COLOURS = \[(.*?)\]", script)[1])
    assert len(set(points)) == 8
    for colour in points:
        assert contrast(colour, named["panel"]) >= LEAST, colour
    opacity = float(re.search(r"UNLABELLED = ([\d.]+)", script)[1])
    assert contrast(mixed(named["soft"], named["panel"], opacity), named["panel"]) >= LEAST


def test_every_control_has_a_border_and_a_visible_focus():
    assert re.search(r"button, input, select \{[^}]*border: 1px solid var\(--line\)", CSS)
    assert re.search(r":focus-visible \{[^}]*outline: 2px solid var\(--accent\)", CSS)
    assert not re.search(r"outline: *(none|0)", CSS)


class Controls(HTMLParser):
    """Collects what one can press or fill in, and which of it has a name."""

    def __init__(self):
        super().__init__()
        self.open, self.found, self.labelled = [], [], set()

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        if tag == "label":
            self.labelled.add(given.get("for"))
        if tag in ("button", "input", "select", "canvas", "dialog", "progress", "svg"):
            self.found.append([tag, given, ""])
            if tag in ("button", "select"):
                self.open.append(self.found[-1])

    def handle_data(self, text):
        for control in self.open:
            control[2] += text.strip()

    def handle_endtag(self, tag):
        if self.open and self.open[-1][0] == tag:
            self.open.pop()


@pytest.mark.parametrize("page", ["page.html", "join.html"])
def test_every_control_has_a_name_for_a_screen_reader(page):
    controls = Controls()
    controls.feed(WEB.joinpath(page).read_text("utf-8"))
    filled_by_script = {"grid-done", "accept"}
    assert controls.found
    for tag, given, text in controls.found:
        named = given.get("aria-label") or given.get("aria-labelledby") or text
        named = named or given.get("id") in controls.labelled | filled_by_script
        assert named, (tag, given)

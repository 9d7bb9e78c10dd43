"""The page in a headless browser: at phone width, in the dark, and when its tables are sorted."""

import io

import numpy as np
import pytest
from made_runs import write_comparison
from PIL import Image

from alprune.runs.report import write_report

# The contrast (WCAG) of every element that holds text with the ground behind it.
CONTRASTS = """
() => {
  const parts = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
    .map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const colour = parts(getComputedStyle(at).backgroundColor);
      if (colour.length === 3 || colour[3] === 1) return colour;
    }
    throw new Error("no ground");
  };
  return [...document.body.querySelectorAll("*")]
    .filter((e) => [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim()))
    .filter((e) => e.tagName !== "SCRIPT")
    .map((e) => {
      const [a, b] = [light(parts(getComputedStyle(e).color)), light(ground(e))];
      return [e.tagName, (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05)];
    });
}
"""


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    runs = write_comparison(tmp_path_factory.mktemp("cmp"))
    return write_report([runs], tmp_path_factory.mktemp("out"), images=False)


@pytest.fixture
def open_page(browser, report):
    """Open the page, offline; what the console says that it should not fails the test."""
    contexts, complaints = [], []

    def open_page(width=1280, scheme="light", scripts=True):
        context = browser.new_context(
            viewport={"width": width, "height": 800},
            color_scheme=scheme,
            offline=True,
            java_script_enabled=scripts,
        )
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda m: complaints.append(m.text) if m.type != "log" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda r: None if r.url.startswith(("file:", "data:")) else
                complaints.append(r.url))  # fmt: skip
        page.goto(report.as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not complaints


@pytest.mark.parametrize("width", [360, 1280])
def test_the_page_renders_without_scrolling_sideways(open_page, width):
    page = open_page(width)
    assert page.title() == "dense, 3sp-ca: 6 runs"
    overhang = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert page.evaluate(overhang) == 0
    drawn = page.evaluate("() => [...document.images].map((i) => [i.complete, i.naturalWidth > 0])")
    assert drawn == [[True, True]] * 6
    for figure in page.query_selector_all("figure"):
        box = figure.bounding_box()
        assert 280 < box["width"] and box["x"] + box["width"] <= width


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_stands_out_from_its_ground(open_page, scheme):
    page = open_page(scheme=scheme)
    contrasts = page.evaluate(CONTRASTS)
    assert len(contrasts) > 100
    assert min(ratio for _, ratio in contrasts) >= 4.5, min(contrasts, key=lambda c: c[1])
    shot = page.query_selector("#picture-accuracy-time img").screenshot()
    grey = np.asarray(Image.open(io.BytesIO(shot)).convert("L"))
    ground, ink = (grey.max(), grey.min()) if scheme == "light" else (grey.min(), grey.max())
    assert grey[2, 2] == ground  # the picture takes the page's ground, and its text stands out
    assert abs(int(ground) - int(ink)) > 150
    assert (ground > 200) == (scheme == "light")


def column(page, table, number):
    return page.eval_on_selector_all(
        f"#{table} tbody tr", f"rows => rows.map((row) => row.cells[{number}].textContent)"
    )


def test_tables_sort_by_click(open_page):
    page = open_page()
    head = page.locator("#runs thead th").nth(6)
    head.locator("button").click()
    accuracies = column(page, "runs", 6)
    assert accuracies == sorted(accuracies, key=float) and accuracies[0] == "50.00"
    assert head.get_attribute("aria-sort") == "ascending"
    head.locator("button").click()
    assert column(page, "runs", 6) == accuracies[::-1]
    assert head.get_attribute("aria-sort") == "descending"
    page.locator("#runs thead th").nth(1).locator("button").click()
    assert column(page, "runs", 1) == ["3sp-ca"] * 3 + ["dense"] * 3
    assert head.get_attribute("aria-sort") is None
    page.locator("#times thead th").last.locator("button").click()
    assert column(page, "times", -1 + page.locator("#times thead th").count())[-1] == "-"


def test_tables_sort_by_keyboard(open_page):
    page = open_page()
    page.locator("#runs thead th").nth(1).locator("button").focus()
    page.keyboard.press("Tab")  # to the next heading
    assert page.evaluate("() => document.activeElement.textContent") == "Seed"
    page.keyboard.press("Enter")
    assert column(page, "runs", 2) == ["0", "0", "1", "1", "2", "2"]
    page.keyboard.press("Space")
    assert column(page, "runs", 2) == ["2", "2", "1", "1", "0", "0"]


def test_the_tables_can_be_read_without_scripts(open_page):
    page = open_page(scripts=False)
    assert page.locator("button").count() == 0
    assert "3sp-ca" in page.locator("#results tbody").inner_text()

import csv
import json
import re
import xml.etree.ElementTree as ET
from base64 import b64decode, b64encode
from dataclasses import replace
from hashlib import sha256
from html.parser import HTMLParser
from os.path import isfile

import numpy as np
import pytest
from click.testing import CliRunner
from made_runs import write_comparison, write_run

from alprune import data
from alprune.cli import main
from alprune.errors import DataError, StoreError
from alprune.runs.report import write_report
from alprune.runs.report.contact_sheet import load_pool
from alprune.runs.report.groups import baseline_of, group_runs
from alprune.runs.report.runs import find_runs, read_run
from alprune.runs.report.sentences import headline
from alprune.runs.report.tables import Findings, speed_ups, tables
from alprune.runs.report.write import _drawn_groups, _width_pictures

NASTY = "<script>alert(1)</script>\"'&<img src=x onerror=alert(2)>$\\frac{$|`a`](javascript:b)"


class Page(HTMLParser):
    """Reads a page: its elements, table cells and text."""

    def __init__(self, path):
        super().__init__()
        self.open, self.tags, self.attributes, self.cells, self.said = [], [], [], {}, []
        self.feed(path.read_text(encoding="utf-8"))
        assert not self.open, f"not closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag not in ("meta", "img"):
            self.open.append(tag)
        if tag == "table":
            self.rows = self.cells[dict(attrs)["id"]] = []
        if tag == "tr":
            self.rows.append([])
        if tag in ("th", "td"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        self.said.append(text)
        if {"th", "td"} & set(self.open):
            self.rows[-1][-1] += text


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cmp")
    write_comparison(folder)
    write_run(
        folder / "dense-seed3", "dense", 3, points=[(10, 0.35)], end=None, config={"lr": 0.02}
    )
    (folder / "broken").mkdir()
    (folder / "broken" / "events.jsonl").write_text("no JSON\n{}\n")
    return write_report([folder], tmp_path_factory.mktemp("out"), images=False)


def test_a_report_has_a_page_markdown_a_table_and_pictures(report):
    out = report.parent
    assert report.name == "report.html"
    keys = {"accuracy-time", "accuracy-labels", "labels-time", "accuracy-flops", "time", "widths"}
    found = {p.name for p in (out / "pictures").iterdir()}
    assert found == {f"{key}.{kind}" for key in keys for kind in ("png", "svg")}
    for name in keys:
        assert (out / "pictures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        ET.parse(out / "pictures" / f"{name}.svg")
    markdown = (out / "report.md").read_text()
    assert set(re.findall(r"\(pictures/(\S+)\.png\)", markdown)) == keys


def test_the_page_needs_nothing_from_elsewhere(report):
    text, page = report.read_text(), Page(report)
    sources = [value for _, name, value in page.attributes if name in ("src", "href", "srcset")]
    assert sources and all(s.startswith("data:image/svg+xml;base64,") for s in sources)
    assert "@import" not in text and "url(" not in text
    for source in sources:
        drawing = b64decode(source.partition(",")[2]).decode()
        links = re.findall(r'href="([^"]*)"', drawing)
        assert all(link.startswith(("#", "data:image/png")) for link in links)


def test_the_page_s_policy_allows_its_own_script_and_style_alone(report):
    text, page = report.read_text(), Page(report)
    policy = next(v for _, n, v in page.attributes if n == "content" and "default-src" in v)
    assert "default-src 'none'" in policy
    for tag in ("script", "style"):
        assert page.tags.count(tag) == 1
        content = re.search(f"<{tag}>(.*?)</{tag}>", text, re.S).group(1)
        assert (
            f"{tag}-src 'sha256-{b64encode(sha256(content.encode()).digest()).decode()}'" in policy
        )


def test_the_page_is_made_for_those_who_do_not_see_it(report):
    page = Page(report)
    assert ("html", "lang", "en") in page.attributes
    alts = [value for tag, name, value in page.attributes if (tag, name) == ("img", "alt")]
    assert len(alts) == page.tags.count("img") == 6
    assert any("3sp-ca goes from 31% to 72%" in alt for alt in alts)
    assert page.tags.count("caption") == page.tags.count("table")
    scopes = [value for tag, name, value in page.attributes if (tag, name) == ("th", "scope")]
    assert len(scopes) == page.tags.count("th")


def test_the_figures_are_those_of_the_runs(report):
    cells = Page(report).cells
    rows = {row[0]: row[1:] for row in cells["results"]}
    # 50, 51, 52 and 70, 72, 74: the standard errors are 1 / sqrt(3) and 2 / sqrt(3).
    assert rows["dense"][:3] == ["3 of 4", "51.0 ± 0.6", "120 ± 0"]
    assert rows["3sp-ca"][:3] == ["3 of 3", "72.0 ± 1.2", "140 ± 0"]
    assert rows["3sp-ca"][4:6] == ["25.0", "66,652"]
    ways = dict(zip(cells["shares"][0], cells["shares"][1], strict=True))
    # Dense begins with 30, 31 and 32% at 10 s and has 50, 51 and 52% from 30 s on.
    assert list(ways) == ["Group", "25% (7.75 s)", "50% (15.5 s)", "75% (23.2 s)", "100% (31.0 s)"]
    assert list(ways.values()) == ["dense", "-", "36.5 ± 0.6", "44.2 ± 0.6", "51.0 ± 0.6"]
    times = dict(zip(cells["times"][0], cells["times"][1], strict=True))
    assert times["Group"] == "dense" and times["40%"] == "19.0"  # 20, 19 and 18 s
    assert times["55%"] == "-"
    against = dict(zip(cells["speedups"][0], cells["speedups"][1], strict=True))
    assert against["Compared with"] == "dense"
    assert against["Final accuracy, points more"] == (
        "+21.0 (+20.0 to +22.0; t +18.5 to +23.5; 3 pairs)"
    )
    same = "2.00 (2.00 to 2.00; t 2.00 to 2.00)"
    assert against["at 40%"] == same
    assert against["Times sooner at the baseline's final accuracy"] == same


def test_what_was_done_is_said(report):
    said = " ".join(Page(report).said)
    assert "3sp-ca ended at 72.0% ± 1.2 after 31.0 s (3 runs)." in said
    assert "21.0 points (95% t-interval +18.5 to +23.5, 3 pairs of seeds) above dense" in said
    assert "It reached dense's final accuracy 2.0 times faster (95% t-interval 2.0 to 2.0)." in said
    assert "% of the time" not in said
    assert "bootstrap" in said and "Wilcoxon" in said
    assert "with 75% certainty, not 95%" in said
    assert "broken" in said and "line 1 is damaged" in said


def test_the_summary_has_a_row_a_run(report):
    with open(report.parent / "summary.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 7
    one = next(r for r in rows if r["group"] == "3sp-ca" and r["seed"] == "2")
    assert float(one["test_accuracy"]) == pytest.approx(0.74)
    assert float(one["s_to_40"]) == pytest.approx(9.0)
    assert (one["state"], one["reason"], one["option_lr"]) == ("ended", "budget", "0.05")
    cut = next(r for r in rows if r["seed"] == "3")
    assert (cut["state"], cut["reason"]) == ("unfinished", "")


def test_a_lone_unfinished_run_has_tables(tmp_path):
    run = read_run(write_run(tmp_path / "a", points=[(10, 0.35)], end=None))
    made = {table.key: table.rows for table in tables(Findings.of(group_runs([run]), {}))}
    assert "speedups" not in made
    assert made["results"][0][1].text == "0 of 1"
    assert made["runs"][0][3].text == "unfinished"
    whole = read_run(write_run(tmp_path / "b", "3sp"))
    assert Findings.of(group_runs([run, whole]), {}).until_s == 31  # of the run that has ended


def test_six_pairs_have_a_p(tmp_path):
    for seed in range(6):
        for method, best in (("dense", 0.5), ("3sp", 0.6)):
            write_run(
                tmp_path / f"{method}{seed}", method, seed, [(9, 0.2), (20, best + seed / 99)]
            )
    groups = group_runs(find_runs([tmp_path])[0])
    table = speed_ups(Findings.of(groups, baseline_of(groups)))
    assert table.rows[0][2].text == "+10.0 (+10.0 to +10.0; t +10.0 to +10.0; 6 pairs; p = 0.031)"
    assert "certainty" not in table.note


@pytest.mark.parametrize(
    ("finals", "said"),
    [
        ([0.50, 0.52, 0.60], "95% t-interval -9.1 to +17.1, 3 pairs of seeds; no clear difference"),
        ([0.54], "4.0 points (one pair of seeds, so its spread is not known) above dense"),
    ],
)
def test_the_lead_claims_no_more_than_its_seeds_show(tmp_path, finals, said):
    for seed, final in enumerate(finals):
        write_run(tmp_path / f"dense{seed}", "dense", seed, [(9, 0.2), (30, 0.5)])
        write_run(tmp_path / f"3sp{seed}", "3sp", seed, [(9, 0.2), (30, final)])
    groups = group_runs(find_runs([tmp_path])[0])
    assert said in " ".join(headline(Findings.of(groups, baseline_of(groups))))


def test_the_lead_says_what_its_intervals_cover(tmp_path):
    for seed in range(2):
        for method in ("dense", "3sp"):
            write_run(tmp_path / f"{method}{seed}", method, seed)
    groups = group_runs(find_runs([tmp_path])[0])
    last = headline(Findings.of(groups, baseline_of(groups)))[-1]
    assert last == (
        "± is the standard error over seeds; neither it nor an interval covers other test images."
    )
    write_run(tmp_path / "3sp-ca", "3sp-ca")
    groups = group_runs(find_runs([tmp_path])[0])
    last = headline(Findings.of(groups, baseline_of(groups)))[-1]
    assert "Each of the 2 comparisons has an interval of its own" in last
    alone = group_runs(find_runs([tmp_path / "3sp0"])[0])
    assert len(headline(Findings.of(alone, {}))) == 1  # nothing to explain


def test_the_lead_says_that_other_programs_slowed_runs(tmp_path):
    for seed, share in enumerate((0.05, 0.4, 0.25)):
        path = write_run(tmp_path / str(seed), "dense", seed) / "events.jsonl"
        *events, end = path.read_text().splitlines()
        end = json.dumps(json.loads(end) | {"others_share": share})
        path.write_text("\n".join([*events, end, ""]))
    groups = group_runs(find_runs([tmp_path])[0])
    said = headline(Findings.of(groups, {}))[-1]
    assert said.startswith("Other programs took up to 40% of the processors during 2 of 3 runs")


@pytest.mark.parametrize(("budget", "differs"), [(60, True), (450, False)])
def test_the_lead_says_that_a_baseline_had_another_budget(tmp_path, budget, differs):
    write_run(tmp_path / "dense", "dense", config={"budget": budget})
    write_run(tmp_path / "3sp", "3sp", config={"budget": 450})
    groups = group_runs(find_runs([tmp_path])[0])
    said = " ".join(headline(Findings.of(groups, baseline_of(groups))))
    assert (", which had another budget." in said) is differs


def test_a_slower_group_is_called_so_many_times_slower(tmp_path):
    for seed in range(6):
        write_run(tmp_path / f"dense{seed}", "dense", seed, [(5, 0.5), (31, 0.5)])
        write_run(tmp_path / f"3sp{seed}", "3sp", seed, [(5, 0.2), (20, 0.4), (21, 0.5), (31, 0.6)])
    groups = group_runs(find_runs([tmp_path])[0])
    said = " ".join(headline(Findings.of(groups, baseline_of(groups))))
    assert "final accuracy at least 4.2 times slower (95% t-interval 4.2 to 4.2)." in said


@pytest.mark.parametrize(
    ("reached_s", "said"),
    [
        ([20, 10, 6], "2.8 times faster (95% t-interval 0.6 to 12.7; no clear difference)."),
        ([40, 48, 90], "1.9 times slower (95% t-interval 0.6 to 5.3; no clear difference)."),
        ([20, 45, 30], "in about the same time (95% t-interval 0.4 to 2.7; no clear difference)."),
        ([15], "2.0 times faster."),  # whose sentence before says that it is one pair
    ],
)
def test_the_lead_says_how_sure_a_speed_up_is(tmp_path, reached_s, said):
    for seed, reached in enumerate(reached_s):
        dense = [(2, 0.2), (28, 0.4), (30, 0.5), (95, 0.5)]
        other = [(2, 0.2), (reached - 2, 0.4), (reached, 0.5), (95, 0.6)]
        write_run(tmp_path / f"dense{seed}", "dense", seed, dense)
        write_run(tmp_path / f"3sp{seed}", "3sp", seed, other)
    groups = group_runs(find_runs([tmp_path])[0])
    text = " ".join(headline(Findings.of(groups, baseline_of(groups))))
    assert f"It reached dense's final accuracy {said}" in text


@pytest.mark.parametrize(
    ("dense", "other", "said"),
    [
        ([(30, 0.5)], [(20, 0.6)], None),  # each tested once: nothing says when it got there
        ([(10, 0.2), (30, 0.5)], [(15, 0.6), (30, 0.7)], "at least 2.0 times faster."),
        ([(10, 0.2), (15, 0.5)], [(30, 0.6), (40, 0.7)], "at most 2.0 times slower."),
        ([(15, 0.5)], [(10, 0.2), (30, 0.5)], "at least 2.0 times slower."),
        ([(30, 0.5)], [(10, 0.2), (15, 0.5)], "at most 2.0 times faster."),
    ],
)
def test_times_of_a_first_test_are_limits(tmp_path, dense, other, said):
    write_run(tmp_path / "dense", "dense", points=dense)
    write_run(tmp_path / "3sp", "3sp", points=other)
    groups = group_runs(find_runs([tmp_path])[0])
    text = " ".join(headline(Findings.of(groups, baseline_of(groups))))
    assert (f"It reached dense's final accuracy {said}" if said else "ended at") in text
    assert ("reached" in text) is (said is not None)


def test_equal_accuracies_are_not_above_each_other(tmp_path):
    write_run(tmp_path / "dense", "dense")
    write_run(tmp_path / "3sp", "3sp")
    groups = group_runs(find_runs([tmp_path])[0])
    said = " ".join(headline(Findings.of(groups, baseline_of(groups))))
    assert "0.0 points" in said and "away from dense" in said


def test_of_many_groups_pictures_show_the_best_and_the_baselines(tmp_path):
    write_run(tmp_path / "dense", "dense", points=[(10, 0.1)])
    for number in range(14):
        write_run(tmp_path / f"{number:02}", f"m{number:02}", points=[(10, 0.2 + number / 50)])
    groups = group_runs(find_runs([tmp_path])[0])
    findings = Findings.of(groups, baseline_of(groups))
    shown = [group.name for group in _drawn_groups(findings)]
    assert shown == ["dense", *(f"m{number:02}" for number in range(5, 14))]
    said = headline(findings)
    assert said[0].startswith("m13 ended at 46.0%") and said[-1].startswith("7 more groups")


def test_of_many_layers_the_first_are_drawn(tmp_path):
    """A line of a record can name a million, whose picture would take hours."""
    run = replace(read_run(write_run(tmp_path)), widths={str(n): (4, 2) for n in range(5_000)})
    [picture] = _width_pictures(group_runs([run]))
    assert len(picture.figure.axes[0].patches) == 1_000
    assert "The first 1,000 of 5,000 layers" in picture.note


def test_nothing_that_a_run_folder_says_is_markup(tmp_path):
    classes = [NASTY, "_private", "=1+1", "cat"]
    rng = np.random.default_rng(0)
    parts = {"x": (16, 6, 6, 3), "y": None}
    arrays = {}
    for part in ("train", "test"):
        arrays[f"x_{part}"] = rng.integers(255, size=parts["x"], dtype=np.uint8)
        arrays[f"y_{part}"] = np.arange(16) % 4
    np.savez(tmp_path / "data.npz", classes=np.array(classes), **arrays)
    name = f"npz:{tmp_path / 'data.npz'}"
    digest = data.load(name).train.digest
    for number, method in enumerate((NASTY, "_hidden")):
        write_run(
            tmp_path / f"<b onclick=alert(3)>{number}",
            method,
            end=f"error: {NASTY}" if number else "budget",
            config={"dataset": name, "model": NASTY},
            start={"hardware": NASTY, "data_digest": digest},
            labels=[(i, i % 4, "x", i // 4) for i in range(16)],
            warnings=[NASTY],
        )
    (tmp_path / "<i>bad").mkdir()
    (tmp_path / "<i>bad" / "events.jsonl").write_text(f"{NASTY}\n\n")
    out = tmp_path / "out"
    write_run(tmp_path / "c", "3sp", config={"dataset": "os:abort"})
    page = Page(write_report([tmp_path], out))
    assert page.tags.count("script") == 1
    assert not {"b", "i"} & set(page.tags)
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    assert page.tags.count("img") == 8  # the six pictures and two contact sheets
    shown = "".join(page.said)
    assert "not shown: the data set 'os:abort' is a function" in shown
    assert NASTY[:25] in shown and f"error: {NASTY}"[:40] in shown
    for drawing in (out / "pictures").glob("*.svg"):
        tags = {element.tag.rpartition("}")[2] for element in ET.parse(drawing).iter()}
        assert not tags & {"script", "foreignObject", "a"}
    markdown = (out / "report.md").read_text()
    assert "<script" not in markdown and "<img" not in markdown
    assert not re.search(r"(?<!\\)\]\(javascript", markdown)
    with open(out / "summary.csv", newline="") as file:
        assert not [c for row in csv.reader(file) for c in row if c.startswith(("=", "@", "+"))]


@pytest.mark.parametrize(
    "dataset, why",
    [
        ("digits", "is not the one that the run began with"),
        ("os:abort", "a report runs no code that a run folder names"),  # would end the process
        ("mnist", "a report downloads nothing"),
        ("npz:nowhere.npz", "nowhere.npz"),
    ],
)
def test_images_that_cannot_be_had_are_an_error_that_says_why(tmp_path, dataset, why):
    config = {"dataset": dataset, "data_root": str(tmp_path)}
    with pytest.raises(DataError, match=why):
        load_pool(read_run(write_run(tmp_path / "a", config=config)))


def test_no_readable_run_is_an_error_that_says_why(tmp_path):
    (tmp_path / "events.jsonl").write_text("no JSON\n{}\n")
    with pytest.raises(StoreError, match="no run to report on.*line 1 is damaged"):
        write_report([tmp_path], tmp_path / "out")
    with pytest.raises(StoreError, match="there is no such folder"):
        write_report([tmp_path / "nowhere"], tmp_path / "out")
    with pytest.raises(StoreError, match="No folder was given"):
        write_report([], tmp_path / "out")


def test_a_report_that_cannot_be_written_is_an_error(tmp_path):
    run = write_run(tmp_path / "a")
    (tmp_path / "out").write_text("a file")
    with pytest.raises(StoreError, match="cannot write a report"):
        write_report([run], tmp_path / "out", images=False)


def test_the_command_prints_the_page_s_path_or_one_message(tmp_path):
    run = write_run(tmp_path / "a", points=[], end=None)  # not a single step yet
    out = str(tmp_path / "out")
    done = CliRunner().invoke(main, ["report", str(run), "--out", out, "--no-images"])
    assert done.exit_code == 0, done.output
    assert done.output.strip() == f"{out}/report.html"
    assert "No run was tested." in (tmp_path / "out" / "report.html").read_text()
    files = json.loads(CliRunner().invoke(
        main, ["report", str(run), "--out", out, "--no-images", "--json"]
    ).stdout)  # fmt: skip
    assert files["page"] == f"{out}/report.html" and all(map(isfile, files.values()))
    wrong = CliRunner().invoke(
        main, ["report", str(run), "--out", out, "--baseline", "3sp", "--no-images"]
    )
    assert wrong.exit_code == 1
    assert "Error: there is no group '3sp' to compare with" in wrong.output


def test_what_is_not_shown_of_a_run_or_not_counted_is_said(tmp_path):
    told = [f"warning {number}" for number in range(12)]
    path = write_run(tmp_path / "runs" / "a", seed=1, warnings=told)
    write_run(tmp_path / "runs" / "a-rerun", seed=1)
    *lines, last = (path / "events.jsonl").read_text().splitlines()
    last = json.dumps(json.loads(last) | {"others_share": 0.5})
    (path / "events.jsonl").write_text("\n".join([*lines, last, ""]))
    write_report([tmp_path / "runs"], tmp_path / "out", images=False)
    said = (tmp_path / "out" / "report.md").read_text()
    assert "1 run has the options and the seed of another one" in said
    assert "other processes took 50%" in said and "warning 8" in said
    assert "warning 9" not in said and "and 3 more" in said


def test_data_that_changed_between_runs_are_named(tmp_path):
    thin = {"dataset": "mnist", "imbalance": 10.0}  # each seed has its own long tail
    for seed, digest in enumerate("aab"):
        start = {"data_digest": digest}
        write_run(tmp_path / f"whole{seed}", seed=seed, start=start)
        write_run(tmp_path / f"thin{seed}", seed=seed, start=start, config=thin)
    write_report([tmp_path], tmp_path / "out", images=False)
    said = (tmp_path / "out" / "report.md").read_text()
    assert "The data of digits were not the same" in said and "of mnist" not in said

"""Every form of images with every command that takes images, end to end."""

import csv
import json
import threading
import urllib.request
from functools import partial

import made_sources
import numpy as np
import photos
import pytest
from click.testing import CliRunner
from PIL import Image

from alprune.cli import main
from alprune.data import LoadOptions, sources
from alprune.labelling import open_asking
from alprune.labelling.web import Server

LITTLE = 2_000  # bytes that are held in memory, where more stays in its file


@pytest.fixture(autouse=True)
def places(tmp_path, monkeypatch):
    monkeypatch.setenv("ALPRUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "hf")


ALIKE = ("parquet", "hf folder", "hf saved")  # the same rows as csv and hf parquet


@pytest.fixture(
    params=[
        pytest.param(kind, marks=[pytest.mark.slow] if kind in ALIKE else [])
        for kind in made_sources.KINDS
    ]
)
def kind(request, monkeypatch):
    if request.param in ("memmap", "shards", "hf parquet"):
        monkeypatch.setattr(sources, "LoadOptions", partial(LoadOptions, in_memory=LITTLE))
    return request.param


def call(*words):
    result = CliRunner().invoke(main, [str(word) for word in words], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result


def flags(dataset, **changes):
    chosen = {n: v for n, v in photos.options("", **changes).items() if n != "dataset"}
    words = [word for n, v in chosen.items() for word in ("--set", f"{n}={v}")]
    return ["--dataset", dataset, *words]


def name_of(path, dataset):
    """Return the class of a picture by what an answer calls it."""
    if dataset.startswith("npz:"):
        row = int(path.partition("[")[2].rstrip("]"))
        return made_sources.rows(known=False)[row][1]
    return photos.truth(path)


def test_it_is_run_and_predicted_with(tmp_path, kind):
    dataset = made_sources.make(kind, tmp_path / "data", known=True)
    out = tmp_path / "run"
    call("run", *flags(dataset, query_size=4), "--set", "initial=6", "--set", "steps=1",
         "--out", out)  # fmt: skip
    call("predict", out, dataset, "--out", tmp_path / "all.csv", "--json")
    with open(tmp_path / "all.csv", encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 24 and not any(row["error"] for row in rows)
    if kind not in ("folder", "hf folder"):  # whose names of parts are in the paths
        assert [row["label"] for row in rows[:8]] == ["dark"] * 8
    known = [row for row in rows if row["label"]]
    assert len(known) == 24 and sum(r["class"] == r["label"] for r in known) > 18


def test_it_is_asked_about_answered_and_predicted(tmp_path, kind):
    dataset = made_sources.make(kind, tmp_path / "data", known=False)
    out = tmp_path / "asked"
    asked = json.loads(call("ask", out, *flags(dataset), "--json").stdout)
    assert asked["pool"] == 16 and len(asked["queries"]) == 6
    assert Image.open(out / "queries.png").size[0] > 500
    with open(out / "queries.csv", encoding="utf-8-sig", newline="") as file:
        table = list(csv.DictReader(file))
    for row in table:
        row["label"] = name_of(row["path"], dataset)
    with open(out / "queries.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, list(table[0]))
        writer.writeheader()
        writer.writerows(table)
    call("tell", out, out / "queries.csv", "--new-classes")
    again = json.loads(call("ask", out, "--json").stdout)
    assert again["labelled"] == 6 and all(query["guess"] for query in again["queries"])
    assert not {q["path"] for q in again["queries"]} & {row["path"] for row in table}
    table = tmp_path / "all.csv"
    summary = json.loads(call("predict", out, dataset, "--out", table, "--json").stdout)
    assert (summary["images"], summary["errors"]) == (16, 0)


def test_it_is_labelled_on_the_page(tmp_path, kind):
    dataset = made_sources.make(kind, tmp_path / "data", known=False)
    options = photos.options("") | {"dataset": dataset}
    with open_asking(tmp_path / "run", classes=made_sources.CLASSES, **options) as asking:
        server, ready = Server(asking), threading.Event()
        thread = threading.Thread(
            target=server.run, args=(lambda url: ready.set(),), kwargs={"browse": False}
        )
        thread.start()
        try:
            assert ready.wait(200)
            shown = wait_for_image(server)
            expected = pixels(dataset, shown["path"])
            with joined(server.url, f"image/{shown['number']}") as answer:
                assert np.array_equal(np.asarray(Image.open(answer)), expected)
            label = name_of(shown["path"], dataset)
            server.queue.answer({shown["number"]: label})
            assert asking.labels == {shown["path"]: label}
        finally:
            server.close()
            thread.join(200)


@pytest.mark.parametrize("kind", ["csv", "shards", "hf saved", "npz"])
def test_a_run_on_images_without_labels_says_what_is_missing(tmp_path, kind):
    dataset = made_sources.make(kind, tmp_path / "data", known=False)
    result = CliRunner().invoke(main, ["run", *flags(dataset), "--out", str(tmp_path / "run")])
    assert result.exit_code == 1 and "Error: " in result.stderr
    assert any(word in result.stderr for word in ("label", "to test on", "y_train"))


@pytest.mark.parametrize(
    "kind",
    ["shards", *(pytest.param(name, marks=pytest.mark.slow) for name in ("csv", "hf saved"))],
)
def test_an_export_is_checked_on_images_without_labels(tmp_path, kind):
    dataset = made_sources.make(kind, tmp_path / "data", known=False)
    options = photos.options("", model="resnet20", budget=0.5) | {"dataset": dataset}
    with open_asking(tmp_path / "run", classes=made_sources.CLASSES, **options) as asking:
        asking.tell({q.path: photos.truth(q.path) for q in asking.ask()})
        asking.ask()
    exported = call("export", tmp_path / "run", "--format", "safetensors")
    assert f"checked on 16 images of {dataset}" in exported.stdout


def joined(url, path):
    """Open an address of the page as a browser that has joined."""
    place, _, token = url.partition("join#")
    browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
    body = json.dumps({"token": token, "name": ""}).encode()
    headers = {"Content-Type": "application/json"}
    browser.open(urllib.request.Request(f"{place}join", body, headers)).close()
    return browser.open(place + path)


def wait_for_image(server):
    for _ in range(600):
        if shown := server.queue.state()["image"]:
            return shown
        threading.Event().wait(0.05)
    raise AssertionError(server.queue.state())


def pixels(dataset, path):
    if dataset.startswith("npz:"):
        _, name, number = made_sources.rows(known=False)[int(path.partition("[")[2].rstrip("]"))]
    else:
        name, number = photos.truth(path), int(path[-7:-4])
    return np.asarray(photos.picture(name, number))

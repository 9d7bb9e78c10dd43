import csv
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
import warnings

import numpy as np
import pytest
import tiny_run
import torch
from click.testing import CliRunner
from made_photos import CLASSES, write_photo, write_photos

import alprune
from alprune.cli import main
from alprune.data.image_cache.store import WAITING, cache_of
from alprune.errors import DataError, StoreError
from alprune.runs.load import load_learner
from alprune.runs.predict import cached_folder, open_source, table, write_file
from alprune.training.device import pick_device

CPU = pick_device("cpu")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return write_photos(tmp_path_factory.mktemp("photos"))


@pytest.fixture(scope="module")
def run(tmp_path_factory, photos):
    path = tmp_path_factory.mktemp("run") / "run"
    config = tiny_run.options(
        path, dataset=f"folder:{photos}", initial=40, query_size=5, steps=2, hold_out=10,
        initial_epochs=20.0,
    )  # fmt: skip
    return alprune.run(config).path


def call(*args):
    return CliRunner().invoke(main, [str(a) for a in args])


def rows_of(text):
    return list(csv.DictReader(io.StringIO(text.removeprefix("\ufeff"))))


def test_a_table_says_of_each_image_what_it_is_and_how_surely(run, photos, tmp_path):
    out = tmp_path / "p.csv"
    done = call("predict", run, f"folder:{photos}", "--out", out, "--all", "--json")
    assert done.exit_code == 0, done.output
    record, rows = json.loads(done.stdout), rows_of(out.read_text())
    assert record["images"] == len(rows) == 80 and record["errors"] == 0
    assert record["labelled"] == 80 and record["accuracy"] > 0.9
    assert sum(row["class"] == row["label"] for row in rows) / 80 == record["accuracy"]
    assert record["classes"] == {n: sum(row["class"] == n for row in rows) for n in CLASSES}
    assert list(rows[0]) == [*table.COLUMNS, "p: blue", "p: red"]
    learner = load_learner(run)
    assert record["temperature"] == learner.temperature
    predicted = alprune.predict(run, f"folder:{photos}")
    for row, wanted in zip(rows, predicted.probabilities, strict=True):
        assert float(row["confidence"]) == pytest.approx(wanted.max(), abs=2e-6)
        assert float(row["p: red"]) == pytest.approx(wanted[1], abs=2e-6)
        assert row["class"] == CLASSES[wanted.argmax()]
        nats = -(wanted * np.log(wanted)).sum()
        assert float(row["entropy"]) == pytest.approx(nats, abs=1e-5)
    images = torch.cat([b.images for b in open_source([photos], learner.inputs).batches(0)])
    with torch.inference_mode():
        plain = learner.logits(images).softmax(1).amax(1)
    got = torch.tensor([float(row["probability"]) for row in rows])
    assert torch.allclose(got, plain, atol=1e-5)


def test_predictions_from_python_are_those_of_the_loop(run, photos):
    predicted = alprune.predict(run, photos)
    summary = json.loads((run / "summary.json").read_text())
    right = [
        name == path.split("/")[1]
        for path, name in zip(predicted.paths, predicted.predicted, strict=True)
        if path.startswith("test/")
    ]
    assert sum(right) / len(right) == summary["test_accuracy"]
    assert predicted.calibrated and not predicted.errors and len(predicted) == 80
    learner = load_learner(run)
    images = torch.cat([b.images for b in open_source([photos], learner.inputs).batches(0)])
    again = alprune.predict(learner, images.numpy())
    assert np.allclose(again.probabilities, predicted.probabilities, atol=1e-6)
    assert again.paths[3] == "image[3]" and again.predicted == predicted.predicted
    one = alprune.predict(run, [photos / "test/red/000.png"])
    assert len(one) == 1 and one.confidence[0] == one.probabilities[0].max()
    assert one.entropy.shape == (1,)


def test_broken_files_have_an_error_and_no_class(run, tmp_path):
    write_photo(tmp_path / "photos" / "=1+1.png", "red", 1)
    write_photo(tmp_path / "photos" / "ärger.png", "red", 1)
    (tmp_path / "photos" / "b.png").write_bytes(b"nothing")
    done = call("predict", run, tmp_path / "photos", "--out", tmp_path / "p.csv")
    assert done.exit_code == 0, done.output
    assert "unreadable   1, see the column error" in done.stdout
    assert "accuracy" not in done.stdout and "calibrated (temperature" in done.stdout
    assert (tmp_path / "p.csv").read_bytes().startswith(b"\xef\xbb\xbfpath,class,")
    first, second, third = rows_of((tmp_path / "p.csv").read_text())
    assert third["path"] == "ärger.png" and third["class"] == first["class"]
    assert first["path"] == "'=1+1.png" and first["error"] == ""
    assert second["error"] == "an image in no known format"
    assert second["class"] == second["probability"] == second["confidence"] == ""
    predicted = alprune.predict(run, tmp_path / "photos")
    assert predicted.predicted[1] is None and list(predicted.errors) == [1]
    assert np.isnan(predicted.probabilities[1]).all()


def test_without_a_temperature_nothing_claims_to_be_calibrated(photos, tmp_path):
    config = tiny_run.options(
        tmp_path / "run", dataset=f"folder:{photos}", initial=20, query_size=5, steps=1
    )
    path = alprune.run(config).path
    done = call("predict", path, photos / "test", "--out", tmp_path / "p.csv")
    assert "not calibrated" in done.stdout and "--hold-out" in done.stdout
    rows = rows_of((tmp_path / "p.csv").read_text())
    assert all(row["confidence"] == "" and float(row["probability"]) > 0 for row in rows)
    assert {row["label"] for row in rows} == {"red", "blue"}


def test_a_table_can_go_to_another_program(run, photos):
    done = call("predict", run, photos / "test" / "red", "--out", "-")
    assert done.exit_code == 0 and len(rows_of(done.stdout)) == 10
    refused = call("predict", run, photos, "--out", "-", "--json")
    assert refused.exit_code == 2


class Stop(Exception):
    pass


def interrupted(run, photos, out, after, error=Stop):
    """Classify until so many images are counted, as if a signal came then."""

    def tick(tally):
        if tally.images >= after:
            raise error

    learner = load_learner(run)
    with pytest.raises(error):
        write_file(learner, open_source([photos], learner.inputs), out, CPU, tick=tick)


def test_what_was_interrupted_goes_on_to_the_same_table(run, tmp_path):
    photos = write_photos(tmp_path / "photos", train=80, test=40)
    (photos / "train/red/003.png").write_bytes(b"nothing")
    learner = load_learner(run)
    source = open_source([photos], learner.inputs)
    whole = write_file(learner, source, tmp_path / "whole.csv", CPU)
    out = tmp_path / "p.csv"
    interrupted(run, photos, out, 100)
    rows = rows_of(out.read_text())
    assert 100 <= len(rows) < 240 and out.read_bytes().endswith(b"\r\n")
    with open(out, "ab") as file:
        file.write(b"half a ro")  # a kill, or a power cut
    tally = write_file(learner, source, out, CPU, resume=True)
    assert out.read_bytes() == (tmp_path / "whole.csv").read_bytes()
    assert tally == whole and whole.images == 240 and whole.errors == 1 and whole.labelled == 239
    assert {path.name for path in tmp_path.iterdir()} == {"photos", "whole.csv", "p.csv"}


def test_a_table_is_never_written_over(run, photos, tmp_path):
    out = tmp_path / "p.csv"
    interrupted(run, photos, out, 10)
    before = out.read_bytes()
    for arguments, message in (
        ([], "interrupted. To continue add --resume"),
        (["--resume", "--all"], "begun with other columns"),
    ):
        done = call("predict", run, photos, "--out", out, *arguments)
        assert done.exit_code == 1 and message in done.stderr, done.output
    done = call("predict", run, photos / "test", "--out", out, "--resume")
    assert done.exit_code == 1 and "begun with other images" in done.stderr
    assert out.read_bytes() == before
    assert call("predict", run, photos, "--out", out, "--resume").exit_code == 0
    done = call("predict", run, photos, "--out", out, "--resume")
    assert done.exit_code == 1 and "complete: there is nothing to resume" in done.stderr
    done = call("predict", run, photos, "--out", out)
    assert done.exit_code == 1 and "exists already" in done.stderr
    (tmp_path / "mine.csv").write_text("a,b\n")
    done = call("predict", run, photos, "--out", tmp_path / "mine.csv", "--resume")
    assert done.exit_code == 1 and "not an interrupted table of predictions" in done.stderr


def test_a_table_that_is_being_written_is_left_to_its_writer(run, photos, tmp_path):
    learner, out = load_learner(run), tmp_path / "p.csv"
    source, refused = open_source([photos], learner.inputs), []

    def tick(tally):
        for resume in (False, True):
            with pytest.raises(StoreError, match=r"another process is writing .*p\.csv"):
                write_file(learner, source, out, CPU, resume=resume)
            refused.append(resume)

    tally = write_file(learner, source, out, CPU, tick=tick)
    assert refused and len(rows_of(out.read_text())) == tally.images
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["p.csv"]


def test_waiting_for_images_that_another_process_decodes_is_said(
    run, photos, tmp_path, monkeypatch
):
    def waits(*_, **__):
        warnings.warn(f"{WAITING} into a place", stacklevel=1)
        warnings.warn("something about a broken file", stacklevel=1)
        raise DataError("none")

    inputs = load_learner(run).inputs
    cache_of(photos, inputs.image_shape[1:], tmp_path).mkdir(parents=True)
    monkeypatch.setattr(cached_folder.data, "load", waits)
    with pytest.warns(UserWarning) as seen:
        cached_folder.kept_source("photos", photos, "", inputs, False, tmp_path)
    assert [str(warning.message) for warning in seen] == [f"{WAITING} into a place"]


def test_a_folder_that_has_changed_is_not_gone_on_with(run, tmp_path):
    photos = write_photos(tmp_path / "photos", train=80, test=40)
    out = tmp_path / "p.csv"
    interrupted(run, photos, out, 100)
    (photos / "test/blue/000.png").unlink()
    done = call("predict", run, photos, "--out", out, "--resume")
    assert done.exit_code == 1 and "Files were added or removed since" in done.stderr


def test_another_learner_does_not_go_on_with_a_table(run, photos, tmp_path):
    out = tmp_path / "p.csv"
    interrupted(run, photos, out, 10)
    learner = load_learner(run)
    with torch.no_grad():
        next(learner.network.parameters()).add_(0.1)
    with pytest.raises(StoreError, match="begun with other learner"):
        write_file(learner, open_source([photos], learner.inputs), out, CPU, resume=True)


def test_a_damaged_note_is_named_and_nothing_is_changed(run, photos, tmp_path):
    out, note = tmp_path / "p.csv", tmp_path / ".p.csv.progress"
    interrupted(run, photos, out, 10)
    sound, table = json.loads(note.read_text()), out.read_bytes()
    tally = sound["tally"]
    odd = [
        *("", "{}", "[]", "[" * 100_000, "9" * 5000),
        *(sound | {"identity": value} for value in (5, [1], None)),
        *(sound | {"bytes": value} for value in ("7", -1, True, None, 1.0)),
        *(sound | {"tally": value} for value in (5, [], {"other": 1})),
        *(sound | {"tally": tally | {name: "1"}} for name in ("images", "labelled", "classes")),
        sound | {"tally": tally | {"images": -1}},
        sound | {"tally": tally | {"classes": dict.fromkeys(tally["classes"], "1")}},
    ]
    learner = load_learner(run)
    source = open_source([photos], learner.inputs)
    for content in odd:
        note.write_text(content if isinstance(content, str) else json.dumps(content))
        with pytest.raises(StoreError, match="is damaged"):
            write_file(learner, source, out, CPU, resume=True)
    assert out.read_bytes() == table


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_whole_rows_and_the_command_to_go_on(run, tmp_path, number):
    photos = write_photos(tmp_path / "photos", train=3000, test=10)
    out = tmp_path / "p.csv"
    command = [sys.executable, "-c", "from alprune.cli import main; main()", "predict"]
    arguments = [str(run), str(photos), "--out", str(out)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(
        command + arguments, stderr=subprocess.PIPE, text=True, env=environment
    )
    while not out.exists():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    time.sleep(0.3)
    process.send_signal(number)
    _, said = process.communicate(timeout=200)
    if process.returncode == 0:
        pytest.skip("it was faster than the signal")
    assert process.returncode == 128 + number, said
    assert "To resume: alprune predict" in said and "--resume" in said and "Traceback" not in said
    counted = int(re.search(r"Interrupted after ([\d,]+) of 6,020", said)[1].replace(",", ""))
    rows = rows_of(out.read_text())
    assert all(row["class"] for row in rows) and counted <= len(rows) <= counted + 64
    done = call("predict", *arguments, "--resume", "--json")
    assert done.exit_code == 0 and json.loads(done.stdout)["images"] == 6020
    assert len({row["path"] for row in rows_of(out.read_text())}) == 6020


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["nowhere", "x"], "there is no run folder or file 'nowhere'"),
        (["RUN", "nowhere.jpg"], "there is no image or folder 'nowhere.jpg'"),
        (["RUN", "PHOTOS", "--device", "tpu"], "unknown device 'tpu'"),
        (["RUN", "PHOTOS", "--out", "/proc/x/p.csv"], "cannot write /proc/x/p.csv"),
        (["RUN", "PHOTOS", "--out", "."], "is a folder; name a file"),
    ],
)
def test_mistakes_are_one_message(run, photos, args, message):
    given = [{"RUN": run, "PHOTOS": photos}.get(arg, arg) for arg in args]
    done = call("predict", *given)
    assert done.exit_code == 1 and message in done.stderr and "Traceback" not in done.output

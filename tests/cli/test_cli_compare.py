"""`alprune compare` at the command line: what it prints, refuses and exits with."""

import csv
import json
import os
import re
import signal

import pytest
from click.testing import CliRunner
from tiny_run import events_of, options

import alprune
from alprune.cli import main
from alprune.errors import StoreError
from alprune.loop.signals import Signals
from alprune.runs.compare import Monitor, runs
from alprune.runs.compare.progress import Overview
from alprune.training import Learner

posix = pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
FAST = (
    "--model tiny_learner:build --dataset digits --min-channels 2 --device cpu --precision fp32 "
    "--steps 1 --initial-epochs 1"
).split()


def call(*args):
    return CliRunner().invoke(main, ["compare", *map(str, args)])


def report_here(paths, out):
    (out / "report.html").write_text("")
    return out / "report.html"


@pytest.fixture
def no_report(monkeypatch):
    """Leave out report and pictures, which take longer than the runs."""
    monkeypatch.setattr(runs, "plot_curve", lambda path, out: None)
    monkeypatch.setattr("alprune.runs.report.write_report", report_here)


def test_a_grid_is_run_told_and_reported(tmp_path, no_report):
    out = tmp_path / "cmp"
    done = call(*FAST, "--methods", "3sp", "--seeds", 2, "--out", out)
    assert done.exit_code == 0, done.output
    assert re.search(r"^3sp +2 of 2 +\d+ +[\d.]+  [\d.]+% ± [\d.]+$", done.stdout, re.MULTILINE)
    assert f"report: {out / 'report.html'}" in done.stdout
    assert "2 runs in" in done.stderr and "2/2 3sp-seed1" in done.stderr
    assert re.search(r"3sp-seed0: done, steps, [\d.]+% with \d+ labels", done.stderr)
    again = call("--resume", out, "--json")
    assert again.exit_code == 0, again.output
    record = json.loads(again.stdout)
    assert [run["state"] for run in record["runs"]] == ["kept"] * 2
    assert record["runs"][0]["values"] == {"method": "3sp", "seed": 0}
    assert 0 <= record["runs"][0]["test_accuracy"] <= 1


@pytest.mark.slow
def test_the_report_of_a_comparison_shows_its_runs(tmp_path):
    out = tmp_path / "cmp"
    done = call(*FAST, "--methods", "3sp,dense", "--out", out, "--json")
    assert done.exit_code == 0, done.output
    page = (out / "report.html").read_text()
    assert json.loads(done.stdout)["report"] == str(out / "report.html")
    assert "3sp" in page and "dense" in page
    assert (out / "dense" / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_a_recipe_may_hold_the_grid_and_dry_run_begins_nothing(tmp_path):
    recipe = tmp_path / "r.toml"
    recipe.write_text(
        'dataset = "digits"\nmodel = "tiny_learner:build"\nsteps = 1\n'
        '[grid]\nmethod = ["dense", "3sp"]\nseed = [0, 1]\n'
    )
    out = tmp_path / "cmp"
    done = call("--recipe", recipe, "--set", "lr=0.1,0.2", "--seed", 5, "--out", out, "--dry-run")
    assert done.exit_code == 0, done.output
    names = re.findall(r"^(\S+) +new$", done.stdout, re.MULTILINE)
    assert names == ["dense-lr0.1", "dense-lr0.2", "3sp-lr0.1", "3sp-lr0.2"]
    assert not out.exists()
    record = json.loads(call("--recipe", recipe, "--out", out, "--dry-run", "--json").stdout)
    assert [run["name"] for run in record["runs"]][:2] == ["dense-seed0", "3sp-seed0"]
    alone = CliRunner().invoke(main, ["run", "--recipe", str(recipe)])
    assert alone.exit_code == 1 and f"alprune compare --recipe {recipe}" in alone.stderr


def test_a_failed_run_is_told_and_exits_with_1(tmp_path, no_report):
    args = ["--acquisitions", "broken_parts:raises,random", "--out", tmp_path / "cmp"]
    done = call(*FAST, *args)
    assert done.exit_code == 1
    assert re.search(r"broken_parts-raises FAILED: AcquisitionError: .*boom", done.stdout)
    assert re.search(r"^random +1 of 1", done.stdout, re.MULTILINE)
    assert f"alprune compare --resume {tmp_path / 'cmp'}" in done.stderr


def test_the_report_names_a_run_that_failed_and_counts_it_nowhere(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "plot_curve", lambda path, out: None)
    out = tmp_path / "cmp"
    done = call(*FAST, "--acquisitions", "broken_parts:raises,random", "--out", out)
    assert done.exit_code == 1 and f"report: {out / 'report.html'}" in done.stdout
    with open(out / "summary.csv", newline="") as file:
        states = {row["group"]: row["state"] for row in csv.DictReader(file)}
    assert states == {"broken_parts:raises": "failed", "random": "ended"}
    text = (out / "report.md").read_text()
    assert "raises: no run of it has ended" in text


def test_a_report_that_cannot_be_written_fails_no_run(tmp_path, monkeypatch, no_report):
    def fails(paths, out):
        raise StoreError("no room")

    monkeypatch.setattr("alprune.runs.report.write_report", fails)
    done = call(*FAST, "--methods", "3sp", "--out", tmp_path / "cmp")
    assert done.exit_code == 0 and "there is no report: no room" in done.stderr


@posix
@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow)],
)
def test_a_signal_ends_the_present_run_soundly_and_resume_goes_on(
    tmp_path, monkeypatch, no_report, number, code
):
    step, batches = Learner._step, []

    def disturbed(*args, **kwargs):
        batches.append(1)
        if len(batches) == 30:
            os.kill(os.getpid(), number)
        return step(*args, **kwargs)

    monkeypatch.setattr(Learner, "_step", disturbed)
    out = tmp_path / "cmp"
    done = call(*FAST, "--initial-epochs", 20, "--seeds", 2, "--method", "3sp", "--out", out)
    assert done.exit_code == code, done.output
    assert len(batches) == 30
    assert f"Interrupted. To resume: alprune compare --resume {out}" in done.stderr
    assert events_of(out / "seed0")[-1]["reason"] == "interrupted"
    assert not (out / "seed1").exists()
    again = call("--resume", out)
    assert again.exit_code == 0, again.output
    assert "1 to resume, 1 to begin" in again.stderr and "1/2 seed0 resumes" in again.stderr
    whole = options(tmp_path / "whole", steps=1, initial_epochs=20.0, epochs=None)
    weights = [p / "model.safetensors" for p in (alprune.run(whole).path, out / "seed0")]
    assert weights[0].read_bytes() == weights[1].read_bytes()


@posix
def test_a_signal_between_two_runs_begins_no_other(tmp_path, monkeypatch, no_report):
    finish = alprune.Session.finish

    def disturbed(session):
        result = finish(session)
        os.kill(os.getpid(), signal.SIGINT)
        return result

    monkeypatch.setattr(alprune.Session, "finish", disturbed)
    out = tmp_path / "cmp"
    done = call(*FAST, "--seeds", 2, "--method", "3sp", "--out", out)
    assert done.exit_code == 130, done.output
    assert f"To resume: alprune compare --resume {out}" in done.stderr
    assert events_of(out / "seed0")[-1]["reason"] == "steps" and not (out / "seed1").exists()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--methods", "dense,3sp-c"], "unknown method '3sp-c'.*'3sp-ca'"),
        (["--methods", "dense,dense"], "method lists 'dense' twice"),
        (["--methods", "dense,"], "method lists an empty value"),
        (["--methods", "dense,3sp", "--method", "3sp"], "method is both fixed and varied"),
        (["--methods", "dense", "--set", "method=3sp"], "method is varied twice"),
        (["--set", "lr"], "--set takes OPTION=V1,V2, got 'lr'"),
        (["--set", "rate=1"], "unknown option 'rate'"),
        (["--set", "lr=fast"], "lr takes a number, got 'fast'"),
        (["--seeds", "0"], "--seeds must be how many"),
        (["--models", "vgg9,vgg19"], "model is both fixed and varied"),
        (["--acquisitions", "entrop"], "Did you mean 'entropy'"),
        (["--seed", "3"], "nothing is varied"),
        (["--seeds", "1", "--jobs", "0"], "jobs must be at least 1"),
        (["--seeds", "1", "--recipe", "none.toml"], "cannot read recipe"),
        (
            ["--methods", "dense,snip", "--flops-reduction", "0.5"],
            "flops_reduction .0.5. has no effect with method 'dense': it prunes nothing",
        ),
        (
            ["--methods", "dense,3sp", "--set", "flops_reduction=0.5,0.6"],
            "run dense-flops-reduction0.5: method 'dense' prunes",
        ),
    ],
)
def test_misuse_is_one_message_before_anything_begins(tmp_path, args, message):
    done = call(*FAST, "--out", tmp_path / "cmp", *args)
    assert done.exit_code == 1, done.output
    assert len(re.findall(r"^Error: ", done.stderr, re.MULTILINE)) == 1
    assert re.search(message, done.stderr), done.stderr
    assert not (tmp_path / "cmp").exists()


def test_a_folder_must_be_named_and_resume_takes_no_options_of_runs(tmp_path):
    assert "give --out outputs/NAME" in call(*FAST, "--seeds", 2).stderr
    done = call("--resume", tmp_path, "--methods", "dense", "--lr", 1, "--set", "seed=1")
    assert done.exit_code == 2 and "no other options of runs" in done.stderr
    assert all(name in done.stderr for name in ("--methods", "--lr", "--set"))
    done = call("--resume", tmp_path)
    assert done.exit_code == 1 and "no comparison to resume" in done.stderr


class Terminal:
    """A stream that says it is a terminal and keeps what is written."""

    encoding = "utf-8"

    def __init__(self):
        self.text = ""

    def write(self, text):
        self.text += text

    def flush(self):
        pass

    def isatty(self):
        return True


def test_on_a_terminal_the_bar_says_which_run_of_how_many_and_what_is_left(tmp_path, no_report):
    terminal = Terminal()
    with Signals() as signals:
        config = options("x", steps=1, initial_epochs=1.0)
        monitor: Monitor = Overview(signals, terminal)
        alprune.compare(config, {"seed": [0, 1]}, tmp_path, monitor=monitor)
    assert "2/2 seed1" in terminal.text and re.search(r"all=\d+ s left", terminal.text)
    assert "step 1/1" in terminal.text

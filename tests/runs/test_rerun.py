"""A run folder is run again and compared."""

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner
from tiny_run import events_of, options

import alprune
from alprune.cli import main
from alprune.errors import StoreError
from alprune.loop.events import Observer
from alprune.runs.rerun import again, compare


def call(*args):
    return CliRunner().invoke(main, ["rerun", *map(str, args)])


def test_a_steps_run_is_repeated_and_found_equal(tmp_path):
    alprune.run(options(tmp_path / "run"))
    done = call(tmp_path / "run", "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["exact"] and found["equal"] and found["weights"] == 0 and found["parted"] is None
    assert (tmp_path / "run-rerun" / "events.jsonl").exists()
    again_at = again(tmp_path / "run").out
    assert again_at == str(tmp_path / "run-rerun-2")


def test_what_must_be_equal_and_is_not_exits_with_1(tmp_path):
    alprune.run(options(tmp_path / "run"))
    events = (tmp_path / "run" / "events.jsonl").read_text()
    step = events_of(tmp_path / "run", "step")[1]
    changed = json.dumps(step["acquired"])
    other = json.dumps(step["acquired"][::-1])
    (tmp_path / "run" / "events.jsonl").write_text(events.replace(changed, other))
    done = call(tmp_path / "run", "--out", tmp_path / "new")
    assert done.exit_code == 1
    assert re.search(r"outcome +different .and had to be equal", done.stdout)
    assert re.search(r"acquired +different from step 1 on", done.stdout)


def test_under_a_budget_a_difference_is_told_and_no_failure(tmp_path):
    alprune.run(options(tmp_path / "run", steps=None, budget=1.0))
    done = call(tmp_path / "run")
    assert done.exit_code == 0, done.output
    assert "need not be equal: a budget" in done.stdout


def test_a_resumed_run_is_still_exact_and_an_extended_one_is_not(tmp_path):
    class Impatient(Observer):
        def event(self, name, fields):
            if name == "step" and fields["step"] == 1:
                raise KeyboardInterrupt

    path = tmp_path / "run"
    alprune.run(options(path), observer=Impatient())
    with pytest.raises(StoreError, match="not come to its end .interrupted.*--resume"):
        again(path)
    alprune.resume(path)
    whole = alprune.run(options(tmp_path / "whole"))
    found = compare(path, whole.path)
    assert found.exact and found.equal
    alprune.resume(path, steps=4)
    assert compare(path, whole.path).why_not == "it was extended while it ran"


def test_a_run_is_repeated_beside_the_folder_one_is_in(tmp_path, monkeypatch):
    alprune.run(options(tmp_path / "run", steps=1))
    monkeypatch.chdir(tmp_path / "run")
    assert again(Path(".")).out == str(tmp_path.resolve() / "run-rerun")


def test_a_run_on_other_data_need_not_be_equal(tmp_path):
    one, two = (alprune.run(options(tmp_path / name, steps=1)).path for name in ("one", "two"))
    [start] = events_of(two, "start")
    record = two / "events.jsonl"
    record.write_text(record.read_text().replace(start["data_digest"], "another"))
    found = compare(one, two)
    assert not found.exact and found.why_not == "the data are not those of then"


def test_a_run_by_a_function_without_a_name_is_refused(tmp_path):
    def mine(evidence, count, generator):
        return evidence.candidates[:count]

    alprune.run(options(tmp_path / "run", steps=1), acquisition=mine)
    with pytest.raises(StoreError, match="by 'test_rerun:.*mine', a function that was passed"):
        again(tmp_path / "run")


def test_networks_of_different_shapes_are_told_apart(tmp_path):
    one = alprune.run(options(tmp_path / "one", steps=1))
    two = alprune.run(options(tmp_path / "two", steps=1, flops_reduction=0.7))
    found = compare(one.path, two.path)
    assert found.weights is None and not found.equal

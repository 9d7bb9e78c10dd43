import json
import os

import pytest
from forbidden import forbid
from made_runs import write_run

from alprune.errors import StoreError
from alprune.runs.report.runs import find_runs, read_run


def change(path, name, fields):
    """Change fields of the first event of that name."""
    file = path / "events.jsonl"
    events = [json.loads(line) for line in file.read_text().splitlines()]
    next(e for e in events if e["event"] == name).update(fields)
    file.write_text("".join(json.dumps(e) + "\n" for e in events))


def test_a_run_is_read_with_its_seconds_adding_up_to_the_clock(tmp_path):
    run = read_run(write_run(tmp_path / "a", "3sp-ca", 7, elapsed=33))
    assert (run.state, run.seed, run.elapsed_s, run.final) == ("ended", 7, 33, 0.6)
    assert run.tested.tolist() == [[10, 100, 0.3], [20, 110, 0.5], [30, 120, 0.6]]
    assert run.seconds["train"] == 10 + 9 + 9
    assert run.seconds["score"] == 2.25 and run.seconds["acquire"] == 0.75
    assert sum(run.seconds[p] for p in ("train", "score", "acquire", "rest")) == 33
    assert run.seconds["test"] == 6
    assert run.examples == 2 * (100 + 110 + 120) and run.scored == 600
    assert run.cost.flops_left == pytest.approx(0.25)


def test_a_test_after_the_last_step_belongs_to_its_learner(tmp_path):
    path = write_run(tmp_path / "old", points=[(10, 0.3), (20, None)])
    change(path, "end", {"test_accuracy": 0.45})
    run = read_run(path)
    assert run.tested.tolist() == [[10, 100, 0.3], [20, 110, 0.45]]
    assert run.final == 0.45


@pytest.mark.parametrize(
    "end, state",
    [
        ("interrupted", "interrupted"),
        ("stopped", "stopped"),
        ("error: the loss is NaN", "failed"),
        (None, "unfinished"),
    ],
)
def test_only_a_run_that_came_to_its_end_has_a_final_accuracy(tmp_path, end, state):
    path = write_run(tmp_path / "a", points=[(10, 0.3), (20, None)], end=end)
    run = read_run(path)
    assert run.state == state
    assert run.final is None
    assert run.tested.tolist() == [[10, 100, 0.3]]  # the last step was not tested


def test_a_run_that_was_killed_while_it_wrote_is_read_up_to_there(tmp_path):
    path = write_run(tmp_path / "a", end=None)
    with open(path / "events.jsonl", "a") as file:
        file.write('{"event": "step", "elapsed_s": 4')
    assert len(read_run(path).labelled) == 3


def test_a_run_without_any_step_is_read(tmp_path):
    run = read_run(write_run(tmp_path / "a", points=[], end=None))
    assert run.state == "unfinished" and run.tested.shape == (0, 3) and run.final is None


def test_options_that_an_old_run_did_not_know_are_at_their_defaults(tmp_path):
    run = read_run(write_run(tmp_path / "a"))
    assert run.config["imbalance"] == 1.0
    assert run.config["start"] == "balanced"


@pytest.mark.parametrize(
    "event, fields",
    [
        ("step", {"train_s": "1"}),
        ("step", {"train_s": -1.0}),
        ("step", {"eval_s": 10**400}),
        ("step", {"elapsed_s": 10**400}),
        ("step", {"labelled": 5000}),  # more than in the steps after it
        ("step", {"fitted_s": 25.0}),
        ("step", {"test_accuracy": 1.5}),
        ("step", {"test_accuracy": -0.5}),
        ("prune", {"macs_before": None}),
        ("prune", {"macs_after": [1]}),
        ("start", {"event": "begin"}),
    ],
)
def test_figures_that_cannot_be_are_damage_and_named(tmp_path, event, fields):
    path = write_run(tmp_path / "a")
    change(path, event, fields)
    with pytest.raises(StoreError, match="events.jsonl"):
        read_run(path)


def test_runs_are_found_in_folders_and_each_once(tmp_path):
    write_run(tmp_path / "cmp" / "b")
    write_run(tmp_path / "cmp" / "a")
    write_run(tmp_path / "cmp" / "deep" / "er" / "c")
    (tmp_path / "cmp" / "empty").mkdir()
    found, damaged = find_runs([tmp_path / "cmp", tmp_path / "cmp" / "a"])
    assert [run.path.name for run in found] == ["a", "b", "c"]
    assert not damaged


def test_links_to_folders_are_not_followed(tmp_path):
    write_run(tmp_path / "elsewhere" / "a")
    (tmp_path / "cmp").mkdir()
    os.symlink(tmp_path / "elsewhere", tmp_path / "cmp" / "link", target_is_directory=True)
    found, damaged = find_runs([tmp_path / "cmp"])
    assert not found
    assert damaged == {tmp_path / "cmp": "no run is there"}


def test_damaged_runs_are_named_and_the_others_read(tmp_path):
    write_run(tmp_path / "good")
    write_run(tmp_path / "bad")
    (tmp_path / "bad" / "events.jsonl").write_text("{}\n{}\n")
    found, damaged = find_runs([tmp_path, tmp_path / "nowhere"])
    assert [run.path.name for run in found] == ["good"]
    assert "line 1 is damaged" in damaged[tmp_path / "bad"]
    assert damaged[tmp_path / "nowhere"] == "there is no such folder"


def test_a_folder_of_another_user_is_named_and_the_others_read(tmp_path, monkeypatch):
    write_run(tmp_path / "cmp" / "good")
    write_run(tmp_path / "cmp" / "theirs")
    forbid(monkeypatch, tmp_path / "cmp" / "theirs")
    for asked in ([tmp_path], [tmp_path / "cmp" / "good", tmp_path / "cmp" / "theirs"]):
        found, damaged = find_runs(asked)
        assert [run.path.name for run in found] == ["good"]
        assert "Permission denied" in damaged[tmp_path / "cmp" / "theirs"]


def test_a_plan_that_is_none_leaves_widths_before_unknown(tmp_path):
    path = write_run(tmp_path / "a")
    assert read_run(path).widths == {"fc1": (None, 300), "fc2": (None, 100)}
    (path / "plan.json").write_text('{"kept": 7}')
    assert read_run(path).widths == {"fc1": (None, 300), "fc2": (None, 100)}

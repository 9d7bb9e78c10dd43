"""`--flops-reduction auto` is chosen once for the runs that a comparison sets side by side."""

import json
from types import SimpleNamespace

import pytest
import torch
from tiny_run import events_of, options

import alprune
from alprune.errors import StoreError
from alprune.loop import auto_reduction, learner
from alprune.loop.checkpoint import SLOTS
from alprune.runs.compare import ENGINES, Monitor, Resources, runs


class Hearing(Monitor):
    def __init__(self):
        self.heard = []

    def chose(self, cell, choice):
        self.heard.append((cell.name, choice))


class Quiet:
    def ended(self):
        return {"others_share": 0.0}


@pytest.fixture
def speeds(monkeypatch):
    """Let each network that is measured seem twice as fast as the one before."""
    taken = []

    def image_s(config, model, *data):
        taken.append(1e-2 * 0.5 ** len(taken))
        return taken[-1]

    monkeypatch.setattr(learner, "image_s", image_s)
    monkeypatch.setattr(auto_reduction, "MachineLoad", Quiet)
    monkeypatch.setattr(auto_reduction, "_LEAST_SAVED", 1.0)
    monkeypatch.setattr(auto_reduction, "_LEAST_GAIN", 10.0)  # pruned, whatever it promises
    monkeypatch.setattr(auto_reduction, "ACROSS", auto_reduction.Balance(10.0, 0.01))
    monkeypatch.setattr(runs, "plot_curve", lambda path, out: None)
    return taken


def automatic(**changes):
    chosen = {"steps": 0, "budget": 60.0, "flops_reduction": "auto", "initial_epochs": 1.0}
    return options("unused", **(chosen | changes))


def recipe(path):
    return alprune.RunConfig.from_toml(path / "config.toml", trust_code=True)


def test_seeds_and_acquisitions_share_a_choice_also_with_runs_that_are_added_later(
    tmp_path, speeds
):
    config = automatic()
    grid = {"method": ["3sp", "3sp-ca"], "seed": [0], "acquisition": ["entropy", "random"]}
    first = Hearing()
    alprune.compare(config, grid, tmp_path, monitor=first)
    assert [name for name, _ in first.heard] == ["3sp-entropy-seed0", "3sp-ca-entropy-seed0"]
    assert all("of the FLOPs removed: it will train on some" in text for _, text in first.heard)
    measured = len(speeds)
    grid["seed"] = [0, 1]
    second = Hearing()
    outcomes = alprune.compare(config, grid, tmp_path, monitor=second)
    assert [o.state for o in outcomes].count("kept") == 4 and len(outcomes) == 8
    assert not second.heard and len(speeds) == measured
    for method in grid["method"]:
        kept = {recipe(path).flops_reduction for path in tmp_path.glob(f"{method}-[er]*")}
        assert len(kept) == 1 and 0 < kept.pop() < 1
        [prune] = events_of(tmp_path / f"{method}-random-seed1", "prune")
        assert prune["flops_reduction"] > 0


def test_a_grid_may_vary_what_a_choice_changes(tmp_path, speeds):
    alprune.compare(automatic(), {"warmup_batches": [20, 400]}, tmp_path)
    made = [recipe(tmp_path / f"warmup-batches{n}").warmup_batches for n in (20, 400)]
    assert made == [20, 400]


def test_runs_of_other_options_are_not_kept_as_those_of_a_choice(tmp_path, speeds):
    alprune.compare(automatic(flops_reduction=0.3), {"seed": [0]}, tmp_path / "given")
    with pytest.raises(StoreError, match="flops_reduction was 0.3 and is 'auto'"):
        alprune.compare(automatic(), {"seed": [0, 1]}, tmp_path / "given")
    alprune.compare(automatic(), {"seed": [0]}, tmp_path / "chosen")
    for name, value, told in [
        ("warmup_batches", 400, "was 50 and is 400"), ("method", "3sp-ca", "was '3sp'")
    ]:  # fmt: skip
        with pytest.raises(StoreError, match=f"begun with other options: .*{name} {told}"):
            alprune.compare(automatic(**{name: value}), {"seed": [0, 1]}, tmp_path / "chosen")


def test_other_comparisons_may_share_the_folder_and_what_was_given_stays_given(tmp_path, speeds):
    grid = {"method": ["3sp"], "seed": [0]}
    alprune.compare(automatic(), grid, tmp_path)
    alprune.compare(automatic(flops_reduction=0.3), {"seed": [0]}, tmp_path)
    outcomes = alprune.compare(automatic(), grid | {"seed": [0, 1]}, tmp_path)
    assert [outcome.state for outcome in outcomes] == ["kept", "done"]
    with pytest.raises(StoreError, match="flops_reduction was 0.3 and is 'auto'"):
        alprune.compare(automatic(), {"seed": [0, 1]}, tmp_path)


def test_a_run_that_begins_again_still_says_why_so_much_is_removed(tmp_path, speeds):
    [done] = alprune.compare(automatic(), {"seed": [0]}, tmp_path)
    [before] = events_of(done.path, "start")
    (done.path / "events.jsonl").write_text(json.dumps(before) + "\n")
    for name in SLOTS:
        (done.path / name).unlink(missing_ok=True)
    [again] = alprune.compare(automatic(), {"seed": [0]}, tmp_path)
    assert again.state == "done"
    for event in ("start", "prune"):
        [found] = events_of(done.path, event)
        assert "it will train on some" in found["chosen_because"] == before["chosen_because"]


def test_speed_is_measured_with_the_threads_of_a_run(tmp_path, speeds, monkeypatch):
    threads, image_s = [], learner.image_s

    def counted(*data):
        threads.append(torch.get_num_threads())
        return image_s(*data)

    monkeypatch.setattr(learner, "image_s", counted)
    monkeypatch.setattr("alprune.runs.compare.side_by_side", lambda *_: [])
    monkeypatch.setattr("alprune.runs.compare.make_elsewhere", lambda *_, **__: [])
    afar = SimpleNamespace(close=lambda: None)
    monkeypatch.setitem(ENGINES, "afar", lambda resources, out: afar)
    before, grid = torch.get_num_threads(), {"seed": [0, 1]}
    torch.set_num_threads(4)
    try:
        with pytest.warns(UserWarning, match="2 runs side by side"):
            alprune.compare(automatic(), grid, tmp_path / "beside", jobs=8)
        assert set(threads) == {2} and torch.get_num_threads() == 4
        threads.clear()
        with pytest.warns(UserWarning, match="on this machine, with 3 threads, and the runs are"):
            alprune.compare(
                automatic(), grid, tmp_path / "afar", engine="afar", resources=Resources(cpus=3)
            )
        assert set(threads) == {3}
    finally:
        torch.set_num_threads(before)

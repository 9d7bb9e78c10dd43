"""`--flops-reduction auto` is chosen once for the runs that a comparison sets side by side."""

import pytest
from tiny_run import events_of, options

import alprune
from alprune.loop import auto_reduction, learner
from alprune.runs.compare import Monitor, runs


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
    taken, image_s = [], 1e-2

    def step_ms(model, batch):
        taken.append(image_s * 0.5 ** len(taken))
        return 1e3 * taken[-1] * len(batch[1])

    monkeypatch.setattr(learner, "step_ms", step_ms)
    monkeypatch.setattr(auto_reduction, "MachineLoad", Quiet)
    monkeypatch.setattr(auto_reduction, "_LEAST_SAVED", 1.0)
    monkeypatch.setattr(auto_reduction, "ACROSS", auto_reduction.Balance(10.0, 0.01))
    monkeypatch.setattr(runs, "plot_curves", lambda paths, out: None)
    return taken


def test_seeds_and_acquisitions_share_a_choice_also_with_runs_that_are_added_later(
    tmp_path, speeds
):
    config = options(
        "unused", steps=0, budget=60.0, flops_reduction="auto", initial_epochs=1.0, method="3sp"
    )
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
        kept = {
            alprune.RunConfig.from_toml(path / "config.toml", trust_code=True).flops_reduction
            for path in tmp_path.glob(f"{method}-[er]*")
        }
        assert len(kept) == 1 and 0 < kept.pop() < 1
        [prune] = events_of(tmp_path / f"{method}-random-seed1", "prune")
        assert prune["flops_reduction"] > 0

"""A state that is read again is taken up whole."""

import pytest
import torch
from tiny_run import events_of, options

import alprune
from alprune.acquisition import acquire
from alprune.data import Dataset
from alprune.errors import StoreError
from alprune.loop.checkpoint import SLOTS, decode, encode
from alprune.loop.resume import reopen

HERE = """plan inputs asked elapsed_s labelled labels steps set_aside draws training exam step
    scoring_speed stepped_back constant_steps""".split()
ELSEWHERE = {
    "layout": "test_checkpoint",
    "learner": "training/test_states",
    "acquisition_state": "test_resume",
    "events_bytes": "test_power_cut",
    "events_digest": "test_power_cut",
    **dict.fromkeys(("config", "data_digest", "device", "acquisition"), "test_resume"),
}


def test_all_that_a_state_holds_is_taken_up(tmp_path):
    path = alprune.run(options(tmp_path / "run", steps=1, hold_out=20)).path
    newest = max((path / slot for slot in SLOTS), key=lambda file: decode(file)["number"])
    tree = decode(newest)
    state = tree["state"]
    assert set(state) == {*HERE, *ELSEWHERE}
    assert tree["number"] == 1  # written by the only step that asked
    taken = set(state["labelled"].tolist()) | set(state["asked"].tolist())
    aside = torch.tensor([i for i in range(1297) if i not in taken][:2])
    draws, training = (torch.Generator().manual_seed(seed).get_state() for seed in (91, 92))
    state |= {"set_aside": aside, "draws": draws, "training": training, "elapsed_s": 7.5}
    state |= {"stepped_back": True, "constant_steps": 2, "scoring_speed": 123.0}
    newest.write_bytes(encode(tree))
    files = {name: (path / name).read_bytes() for name in ("plan.json", "inputs.json")}
    (path / "plan.json").unlink()  # left out of a copy, or damaged: the state has them too
    (path / "inputs.json").write_bytes(b"{")
    session, _ = reopen(path, steps=2)
    session.record.folder.close()
    learning, pool = session.learning, session.pool
    assert (learning.stepped_back, learning.alarms.constant_steps) == (True, 2)
    assert (learning.speed.speed, session.budget.elapsed_s) == (123.0, 7.5)
    assert torch.equal(learning.setting.draws.get_state(), draws)
    assert torch.equal(learning.setting.training.get_state(), training)
    assert torch.equal(pool.aside, aside) and pool.held.numel() == 20
    assert learning.step == 1 and learning.asked is None  # labels.csv had the answers
    assert torch.equal(pool.label_of(state["labelled"]), state["labels"])
    assert torch.equal(pool.step_of[state["labelled"]], state["steps"])
    assert session.evaluation.state() == state["exam"]
    assert {name: (path / name).read_bytes() for name in files} == files


def test_a_state_with_a_truth_value_for_a_number_is_refused(tmp_path):
    path = alprune.run(options(tmp_path / "run", steps=0, initial_epochs=1.0)).path
    [newest] = path.glob("checkpoint-*")
    tree = decode(newest)
    tree["state"]["step"] = True  # Python counts it as 1
    newest.write_bytes(encode(tree))
    before = (path / "events.jsonl").read_bytes()
    with pytest.raises(StoreError, match="step is True, not a number that a run writes"):
        reopen(path, steps=2)
    assert (path / "events.jsonl").read_bytes() == before


def test_an_image_that_cannot_be_read_is_not_asked_for_and_never_chosen_again(
    tmp_path, monkeypatch
):
    bad = []

    def unreadable(self, indices):
        """The first ten that are chosen in a step, and one of the next ten."""
        begun = len(indices) == 10
        new = indices.tolist()[: (11 - len(bad) if bad else 10) if begun else 0]
        bad.extend(new)
        return torch.isin(indices, torch.tensor(new))

    def in_a_second(function, evidence, *about):
        chosen = acquire(function, evidence, *about)
        evidence.compute_s = 1.0
        return chosen

    monkeypatch.setattr(Dataset, "unreadable", unreadable)
    monkeypatch.setattr("alprune.loop.active_learner.acquire", in_a_second)
    with pytest.warns(UserWarning, match="images chosen cannot be read, point"):
        result = alprune.run(options(tmp_path / "run", steps=2, query_size=10))
    steps = events_of(result.path, "step")
    acquired = [step["acquired"] for step in steps]
    assert [len(points) for points in acquired] == [9, 10, 0] and len(bad) == 11
    assert not set(bad) & {point for points in acquired for point in points}
    assert result.labelled == 119
    assert [step.get("score_s") for step in steps[:2]] == [2.0, 1.0]  # the first looked twice
    epochs = [step["epochs"] for step in steps]
    assert epochs[0] >= 4 and max(epochs[1:]) < 2  # the first fit takes --initial-epochs

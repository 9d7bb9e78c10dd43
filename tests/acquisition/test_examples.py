"""The functions that users copy keep the contract and run by name from their folder."""

from pathlib import Path

import pytest
import torch
from known_evidence import KnownEvidence, seeded

import alprune
from alprune.acquisition import acquire, find_acquisition, snapshots_of
from alprune.acquisition.testing import check_acquisition

FOLDER = Path(__file__).parents[2] / "recipes" / "acquisition"
NAMES = ["rare_and_uncertain", "far_apart", "Changing", "changed_minds"]


@pytest.fixture(autouse=True)
def in_the_folder(monkeypatch):
    monkeypatch.chdir(FOLDER)


@pytest.mark.parametrize("name", NAMES)
def test_every_example_keeps_the_contract(name):
    check_acquisition(f"my_functions:{name}")


def test_far_apart_takes_the_farthest_first():
    rows = [[0.0], [1.0], [2.0], [3.0], [5.5], [8.0], [9.0], [10.0]]
    for seed in range(5):
        evidence, farthest = KnownEvidence(rows), find_acquisition("my_functions:far_apart")
        first, *others = acquire(farthest, evidence, 4, seeded(seed)).tolist()
        taken = [rows[first - 100][0]]
        for point in others:
            gaps = [min(abs(x - y) for y in taken) for [x] in rows]
            assert gaps[point - 100] == max(gaps)
            taken.append(rows[point - 100][0])


def test_rare_classes_come_first_among_equally_uncertain():
    evidence = KnownEvidence(torch.zeros(2, 1), probabilities=[[0.6, 0.4], [0.4, 0.6]])
    evidence.classes, evidence.labels = 2, torch.tensor([0, 0, 0, 1])
    chosen = acquire(find_acquisition("my_functions:rare_and_uncertain"), evidence, 1, seeded())
    assert chosen.tolist() == [101]


def test_the_state_of_a_class_goes_on_where_it_was():
    first, other = (find_acquisition("my_functions:Changing") for _ in range(2))
    evidence = KnownEvidence(torch.zeros(9, 1))
    for _ in range(3):
        first(evidence, 2, seeded())
    other.load_state_dict(first.state_dict())
    assert torch.equal(first(evidence, 2, seeded(1)), other(evidence, 2, seeded(1)))
    assert snapshots_of(find_acquisition("balanced:my_functions:changed_minds")) == 3


@pytest.mark.parametrize("name", ["my_functions:Changing", "balanced:my_functions:changed_minds"])
def test_an_example_runs_by_name(tmp_path, name):
    config = alprune.RunConfig(
        dataset="digits",
        model="lenet-300-100",
        steps=3,
        initial_epochs=1.0,
        device="cpu",
        acquisition=name,
        out=str(tmp_path / "run"),
    )
    assert alprune.run(config).labelled == 130

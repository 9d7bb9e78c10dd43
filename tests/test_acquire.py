import math

import pytest
import torch

from alprune.acquire import ACQUISITIONS, acquire, find_acquisition
from alprune.acquire.uncertainty import entropy, least_confidence, margin
from alprune.errors import AcquisitionError, ConfigError


class FixedEvidence:
    """Evidence over known probabilities."""

    def __init__(self, probabilities, candidates):
        self.probabilities = torch.tensor(probabilities)
        self.candidates = torch.tensor(candidates)


@pytest.fixture
def evidence():
    sure, even, half = [1.0, 0.0, 0.0], [1 / 3] * 3, [0.5, 0.5, 0.0]
    return FixedEvidence([sure, even, half], [10, 20, 30])


def generator():
    return torch.Generator().manual_seed(0)


def test_uncertainties_equal_hand_worked_values(evidence):
    cases = {
        entropy: [0.0, math.log(3), math.log(2)],
        margin: [-1.0, 0.0, 0.0],
        least_confidence: [0.0, 2 / 3, 0.5],
    }
    for function, expected in cases.items():
        scores = function(evidence, 1, generator())
        assert torch.allclose(scores, torch.tensor(expected), atol=1e-6), function


def test_scores_acquire_the_largest_as_absolute_indices(evidence):
    assert acquire(entropy, evidence, 2, generator()).tolist() == [20, 30]


@pytest.mark.parametrize("name", ACQUISITIONS)
def test_every_function_acquires_distinct_candidates_and_repeats_by_seed(name):
    rows = torch.rand(40, 5, generator=generator()).softmax(1)
    evidence = FixedEvidence(rows.tolist(), list(range(100, 140)))
    first = acquire(ACQUISITIONS[name], evidence, 7, generator())
    again = acquire(ACQUISITIONS[name], evidence, 7, generator())
    assert torch.equal(first, again)
    assert first.unique().numel() == 7
    assert torch.isin(first, evidence.candidates).all()
    assert acquire(ACQUISITIONS[name], evidence, 99, generator()).numel() == 40


@pytest.mark.parametrize(
    ("result", "message"),
    [
        ([1, 2], "returned list"),
        (torch.tensor([0.1, 0.2]), "one for each of the 3 candidates"),
        (torch.tensor([0.1, float("nan"), 0.2]), "1 scores of 3 that are not finite"),
        (torch.tensor([10]), r"\(2,\) were asked for"),
        (torch.tensor([10, 10]), "an index twice"),
        (torch.tensor([10, 11]), "1 indices that are no candidates.*first 11"),
    ],
)
def test_an_unusable_result_is_refused_with_the_functions_name(evidence, result, message):
    def mine(evidence, count, generator):
        return result

    with pytest.raises(AcquisitionError, match=f"'mine'.*{message}"):
        acquire(mine, evidence, 2, generator())


def test_a_module_in_the_current_folder_is_found(tmp_path, monkeypatch, evidence):
    (tmp_path / "my_acquisition.py").write_text(
        "def last(evidence, count, generator):\n    return evidence.candidates[-count:]\n"
    )
    monkeypatch.chdir(tmp_path)
    found = find_acquisition("my_acquisition:last")
    assert acquire(found, evidence, 2, generator()).tolist() == [20, 30]


def test_an_unknown_name_suggests_the_nearest():
    with pytest.raises(ConfigError, match="Did you mean 'entropy'"):
        find_acquisition("entrpy")
    with pytest.raises(ConfigError, match="cannot be imported"):
        find_acquisition("nowhere_at_all:f")


def test_a_function_that_fails_is_named_with_the_line(evidence):
    def mine(evidence, count, generator):
        return evidence.nothing

    with pytest.raises(AcquisitionError, match=r"'mine' failed with AttributeError.*test_acquire"):
        acquire(mine, evidence, 2, generator())

import pytest
import torch
from known_evidence import KnownEvidence, normal, seeded

from alprune.acquisition import acquire, find_acquisition
from alprune.acquisition.uncertainty import entropy, random
from alprune.acquisition.wrappers import class_balanced, diverse
from alprune.errors import AcquisitionError


def predicted_as(labels, classes=3):
    return torch.eye(classes)[torch.tensor(labels)]


def test_balanced_fills_the_classes_with_the_fewest_points_by_score():
    evidence = KnownEvidence(
        torch.zeros(7, 1), probabilities=predicted_as([0, 0, 0, 1, 1, 1, 2]), classes=3
    )
    evidence.labels = torch.tensor([0, 0, 0, 1])
    scores = torch.tensor([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.1])
    chosen = acquire(class_balanced(lambda *_: scores), evidence, 5, seeded()).tolist()
    # Have 3, 1, 0 points: class 2 gets its only candidate; class 1 two, and has as many as
    # class 0, which comes first among equals.
    assert chosen == [106, 103, 104, 100, 105]
    everything = acquire(class_balanced(lambda *_: scores), evidence, 99, seeded())
    assert sorted(everything.tolist()) == list(range(100, 107))


def test_balanced_acquires_evenly_where_the_score_would_take_one_class():
    labels = [0] * 50 + [1] * 50 + [2] * 50
    evidence = KnownEvidence(torch.zeros(150, 1), probabilities=predicted_as(labels))
    evidence.labels = torch.empty(0, dtype=torch.int64)
    scores = torch.arange(150.0)  # highest for class 2
    chosen = acquire(class_balanced(lambda *_: scores), evidence, 30, seeded()) - 100
    assert torch.bincount(chosen // 50).tolist() == [10, 10, 10]
    for label in range(3):  # and the best of each
        assert set(range(50 * label + 40, 50 * label + 50)) <= set(chosen.tolist())


def test_balanced_takes_equal_scores_at_random_and_not_neighbours_in_the_pool():
    evidence = KnownEvidence(torch.zeros(200, 1), probabilities=predicted_as([0] * 200))
    evidence.labels = torch.empty(0, dtype=torch.int64)
    rule = class_balanced(lambda *_: torch.zeros(200))
    first, second = (set(acquire(rule, evidence, 20, seeded(s)).tolist()) for s in (0, 1))
    assert first != second
    assert max(first) - min(first) > 100


def test_diverse_takes_one_point_of_each_cluster_among_the_best_scores():
    centres = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
    rows = torch.cat([centres.repeat_interleave(10, 0), torch.full((30, 2), 99.0)])
    rows += 0.1 * normal(60, 2)
    evidence = KnownEvidence(rows)
    scores = torch.cat([torch.ones(30), torch.zeros(30)])  # the far points score low
    scores[:10] += 1  # the first three would all come from one cluster
    chosen = acquire(diverse(lambda *_: scores), evidence, 3, seeded()) - 100
    assert sorted((chosen // 10).tolist()) == [0, 1, 2]
    for group in range(3):  # each is the one nearest its cluster's mean
        members = rows[10 * group : 10 * group + 10]
        nearest = (members - members.mean(0)).norm(dim=1).argmin()
        assert 10 * group + nearest in chosen.tolist()


def test_diverse_fills_up_by_score_where_points_coincide():
    rows = torch.cat([torch.zeros(30, 2), torch.ones(1, 2)])
    scores = torch.arange(31.0)
    chosen = acquire(diverse(lambda *_: scores), KnownEvidence(rows), 5, seeded()).tolist()
    assert len(chosen) == 5
    assert {130, 129, 128} <= set(chosen)


def test_only_scores_can_be_wrapped():
    evidence = KnownEvidence(normal(9, 2))
    for wrapper in (class_balanced, diverse):
        with pytest.raises(AcquisitionError, match="'random' returned indices"):
            acquire(wrapper(random), evidence, 2, seeded())


def test_wrappers_are_found_by_name_around_any_name(tmp_path, monkeypatch):
    (tmp_path / "my_scores.py").write_text(
        "def first(evidence, count, generator):\n    return -evidence.candidates.double()\n"
    )
    monkeypatch.chdir(tmp_path)
    evidence = KnownEvidence(normal(40, 3), normal(4, 3))
    for name in ("balanced:entropy", "balanced:power:entropy", "diverse:margin"):
        found = find_acquisition(name)
        assert found.__name__ == name
        assert acquire(found, evidence, 5, seeded()).numel() == 5
    mine = find_acquisition("balanced:my_scores:first")
    direct = class_balanced(find_acquisition("my_scores:first"))
    chosen = [acquire(f, evidence, 5, seeded()).tolist() for f in (mine, direct)]
    assert chosen[0] == chosen[1]
    by_hand = acquire(class_balanced(entropy), evidence, 5, seeded())
    assert torch.equal(
        acquire(find_acquisition("balanced:entropy"), evidence, 5, seeded()), by_hand
    )

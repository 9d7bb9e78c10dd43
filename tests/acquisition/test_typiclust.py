import importlib

import torch
from known_evidence import KnownEvidence, normal, seeded

from alprune.acquisition.distances import make_points
from alprune.acquisition.typiclust import most_typical, typical, typiclust

# The package offers the function of the same name.
typicality_module = importlib.import_module("alprune.acquisition.typiclust")


def typicality(rows, neighbours):
    """Inverse mean distance to the nearest neighbours, of all pairs in float64."""
    distances = (rows.double()[:, None] - rows.double()).norm(dim=2).sort(1).values
    return (neighbours / distances[:, 1 : neighbours + 1].sum(1)).tolist()  # each is its nearest


def test_the_most_typical_has_the_least_mean_distance_to_its_neighbours():
    for seed in range(4):
        rows = normal(70, 5, seed=seed)
        expected = typicality(rows, 20)
        best = most_typical(make_points(rows), 20, seeded())
        assert best == max(range(70), key=expected.__getitem__)


def test_small_clusters_look_at_half_their_points():
    rows = torch.tensor([[0.0], [1.0], [5.0], [7.0]])  # 2 neighbours: means 3, 2.5, 3, 4
    assert most_typical(make_points(rows), 20, seeded()) == 1
    assert most_typical(make_points(rows[:1]), 20, seeded()) == 0


def test_blocks_do_not_change_the_most_typical(monkeypatch):
    from alprune.acquisition import distances as points_module

    points = make_points(normal(90, 5))
    whole = most_typical(points, 20, seeded())
    monkeypatch.setattr(points_module, "BLOCK", 90 * 7)
    assert most_typical(points, 20, seeded()) == whole


def test_of_a_huge_cluster_a_random_part_is_judged_by_all_its_points(monkeypatch):
    rows = normal(300, 3)
    ranking = sorted(range(300), key=typicality(rows, 20).__getitem__, reverse=True)
    monkeypatch.setattr(typicality_module, "PAIRS", 300 * 60)
    monkeypatch.setattr(typicality_module, "PART", 10)
    ranks = [ranking.index(most_typical(make_points(rows), 20, seeded(seed))) for seed in range(40)]
    # The best of 60 drawn from 300: rank r with a chance of about 0.8^r / 5, so 4 on average.
    assert 1 < sum(ranks) / 40 < 8
    assert max(ranks) < 60


def test_clusters_are_visited_by_fewest_labels_then_most_points():
    # Clusters 0 (8 points), 1 (7), 2 (9, labelled twice), 3 (5: small), 4 (6, labelled once).
    sizes, labelled = [8, 7, 9, 5, 6], torch.tensor([0, 0, 2, 0, 1])
    groups = torch.repeat_interleave(torch.arange(5), torch.tensor(sizes))
    points = make_points(normal(35, 3))
    chosen = typical(points, groups, labelled, 6, seeded())
    assert groups[chosen].tolist() == [0, 1, 4, 2, 0, 1]
    everything = typical(points, groups, labelled, 99, seeded())
    assert sorted(everything.tolist()) == list(range(35))
    assert groups[everything[-5:]].tolist() == [3] * 5


def test_a_second_visit_judges_what_is_left():
    rows = normal(25, 3)
    groups, labelled = torch.zeros(25, dtype=torch.int64), torch.tensor([1])
    first, second = typical(make_points(rows), groups, labelled, 2, seeded()).tolist()
    rest = [i for i in range(25) if i != first]
    again = typicality(rows[rest], 12)
    assert second == rest[max(range(24), key=again.__getitem__)]


def test_each_direction_without_a_label_gives_one_point():
    # Unit directions: lengths must not matter. Direction 0 is labelled.
    directions = torch.eye(4)
    at = torch.arange(80) % 4
    lengths = 1 + 9 * torch.rand(80, 1, generator=seeded())
    rows = directions[at] * lengths + 0.02 * normal(80, 4)
    evidence = KnownEvidence(rows, directions[:1] * 5)
    chosen = typiclust(evidence, 3, seeded()) - 100
    assert sorted(at[chosen].tolist()) == [1, 2, 3]


def test_a_cold_start_gives_one_point_of_each_direction():
    at = torch.arange(80) % 4
    evidence = KnownEvidence(torch.eye(4)[at] + 0.02 * normal(80, 4))
    assert sorted(at[typiclust(evidence, 4, seeded()) - 100].tolist()) == [0, 1, 2, 3]

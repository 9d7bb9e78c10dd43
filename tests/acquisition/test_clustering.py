import torch
from known_evidence import KnownEvidence, normal, seeded

from alprune.acquisition import clustering as clusters
from alprune.acquisition.clustering import (
    average_linkage,
    clue,
    cluster_margin,
    nearest_distinct,
    round_robin,
)
from alprune.acquisition.distances import make_points


def uncertain(certainty):
    """Probabilities of two classes by how likely the first is."""
    certainty = torch.as_tensor(certainty)
    return torch.stack([certainty, 1 - certainty], 1)


def test_each_mean_gives_its_nearest_point_that_is_not_taken():
    points = make_points(torch.tensor([[0.0], [1.0], [2.0], [5.0]]))
    means = make_points(torch.tensor([[0.9], [1.1], [1.0], [4.0]]))
    # 1 is taken by the first mean; the second's next is 2, the third's next 0.
    assert nearest_distinct(points, means).tolist() == [1, 2, 0, 3]


def test_clue_takes_the_means_of_the_uncertain_points():
    # Two groups; in each, only the points near one end are uncertain.
    line = torch.tensor([0.0, 1.0, 2.0, 3.0, 4.0, 100.0, 101.0, 102.0, 103.0, 104.0])
    certainty = torch.tensor([0.5, 0.5, 0.5, 1.0, 1.0, 1.0, 1.0, 0.5, 0.5, 0.5])
    evidence = KnownEvidence(line[:, None], probabilities=uncertain(certainty), classes=2)
    assert sorted(clue(evidence, 2, seeded()).tolist()) == [101, 108]


def test_clue_fills_up_with_the_most_uncertain_where_points_coincide():
    rows = torch.tensor([[-1.0], [1.0]]).repeat(5, 1)
    certainty = torch.tensor([0.9, 0.9, 0.9, 0.9, 0.5, 0.9, 0.9, 0.6, 0.9, 0.9])
    evidence = KnownEvidence(rows, probabilities=uncertain(certainty), classes=2)
    chosen = (clue(evidence, 4, seeded()) - 100).tolist()
    assert len(set(chosen)) == 4
    assert {4, 7} <= set(chosen)


def test_round_robin_goes_from_the_smallest_group_to_the_largest():
    groups = torch.tensor([7, 7, 7, 7, 3, 3, 5, 5, 5])
    chosen = round_robin(groups, 9, seeded())
    assert groups[chosen].tolist() == [3, 5, 7, 3, 5, 7, 5, 7, 7]
    assert len(set(chosen.tolist())) == 9
    assert len(round_robin(groups, 99, seeded())) == 9


def test_round_robin_draws_members_uniformly():
    groups = torch.tensor([0, 0, 0, 0, 1])
    counts = torch.zeros(5)
    for seed in range(400):
        counts[round_robin(groups, 2, seeded(seed))] += 1
    assert counts[4] == 400
    assert ((counts[:4] - 100).abs() < 4 * 10).all()


def test_average_linkage_equals_scipys():
    from scipy.cluster.hierarchy import fcluster, linkage

    rows = normal(60, 4)
    ours = average_linkage(make_points(rows + 30), 9)
    theirs = fcluster(linkage(rows.double().numpy(), "average"), 9, "maxclust")
    same = ours[:, None] == ours
    assert (same == (torch.from_numpy(theirs)[:, None] == torch.from_numpy(theirs))).all()


def test_cluster_margin_spreads_over_clusters_of_the_lowest_margins_only():
    # 300 points in 3 blobs; the 10 * 6 lowest margins are 40 of blob 0, 10 of 1 and 10 of 2.
    at = torch.arange(300) % 3
    rows = torch.eye(3)[at] * 10 + 0.1 * normal(300, 3)
    rank = torch.arange(300) // 3
    low = rank < torch.tensor([40, 10, 10])[at]
    certainty = torch.where(low, 0.5 + 0.0001 * rank, torch.tensor(0.99))
    evidence = KnownEvidence(rows, probabilities=uncertain(certainty), classes=2)
    chosen = cluster_margin(evidence, 6, seeded()) - 100
    assert low[chosen].all()
    assert set(at[chosen].tolist()) == {0, 1, 2}


def test_cluster_margin_beyond_its_limit_takes_the_lowest_margins(monkeypatch):
    monkeypatch.setattr(clusters, "MARGIN_LIMIT", 8)
    certainty = torch.linspace(0.5, 1.0, 40)
    evidence = KnownEvidence(normal(40, 3), probabilities=uncertain(certainty), classes=2)
    assert sorted(cluster_margin(evidence, 20, seeded()).tolist()) == list(range(100, 120))
    assert max(cluster_margin(evidence, 4, seeded()).tolist()) < 108

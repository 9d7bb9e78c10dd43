import numpy as np
import pytest
import torch
from known_evidence import normal, seeded

from alprune.acquisition import kmeans
from alprune.acquisition.distances import make_points
from alprune.acquisition.kmeans import assign, draw, k_means, lloyd, seeds


def blobs(n, k, d=4, spread=0.1, seed=0):
    """`n` points around `k` far corners, and which corner each is at."""
    corners = normal(k, d, seed=seed) * 5
    at = torch.arange(n) % k
    rows = corners[at] + spread * normal(n, d, seed=seed + 1)
    return make_points(rows - rows.mean(0)), at


def inertia(points, centres):
    return float(points.nearest(centres).sum())


def test_positions_are_drawn_in_proportion_to_their_weights():
    weights = torch.tensor([0.0, 1.0, 0.0, 3.0, 6.0, 0.0])
    generator = seeded()
    counts = torch.zeros(6)
    for _ in range(4000):
        counts[draw(weights, generator)] += 1
    assert counts[weights == 0].sum() == 0
    expected = weights / weights.sum() * 4000
    assert ((counts - expected).abs() < 4 * expected.sqrt() + 1e-9).all()
    assert draw(torch.zeros(3), generator) is None


def test_seeds_are_drawn_by_squared_distance_to_the_nearest_chosen():
    # From 0 the others are 1, 4 and 9 squared units away.
    points = make_points(torch.tensor([[0.0], [1.0], [2.0], [3.0]]))
    counts = torch.zeros(4)
    generator = seeded()
    for _ in range(2800):
        chosen = seeds(lambda at: points.to(points[at])[:, 0], torch.tensor([0]), 2, generator)
        counts[chosen[1]] += 1
    expected = torch.tensor([0.0, 200.0, 800.0, 1800.0])
    assert ((counts - expected).abs() <= 4 * expected.sqrt()).all()


def test_seeds_end_when_all_points_coincide_with_a_chosen_one():
    points = make_points(torch.tensor([[0.0], [1.0], [1.0], [0.0]]))
    chosen = seeds(lambda at: points.to(points[at])[:, 0], torch.tensor([3]), 4, seeded())
    assert sorted(points.rows[chosen, 0].tolist()) == [0.0, 1.0]


@pytest.mark.parametrize("weighted", [False, True])
def test_lloyd_ends_where_scikit_learn_ends_from_the_same_start(weighted):
    from sklearn.cluster import KMeans

    points = make_points(normal(400, 5))
    weights = torch.rand(400, generator=seeded(3)) if weighted else torch.ones(400)
    start = points.rows[:8]
    centres = lloyd(points, start, weights, 300)
    reference = KMeans(8, init=start.numpy(), n_init=1, max_iter=300, tol=1e-4).fit(
        points.rows.numpy(), sample_weight=weights.numpy()
    )
    assert np.allclose(centres.rows.numpy(), reference.cluster_centers_, atol=0.02)
    groups = assign(points, centres.rows)
    assert (groups.numpy() == reference.labels_).mean() > 0.99
    ours = float((points.nearest(centres) * weights).sum())
    assert ours == pytest.approx(reference.inertia_, rel=1e-3)


def test_separate_blobs_are_found():
    points, at = blobs(300, 6)
    groups = assign(points, k_means(points, 6, seeded()).rows)
    for corner in range(6):
        assert len(groups[at == corner].unique()) == 1
    assert len(groups.unique()) == 6


def test_a_centre_without_points_stays_where_it_is():
    points = make_points(torch.tensor([[-1.0], [1.0]]))
    start = torch.tensor([[-1.0], [1.0], [9.0]])
    centres = lloyd(points, start, torch.ones(2), 5)
    assert centres.rows[:, 0].tolist() == [-1.0, 1.0, 9.0]


def test_points_of_weight_zero_do_not_count():
    points = make_points(torch.tensor([[-3.0], [-1.0], [1.0], [3.0]]))
    centres = k_means(points, 2, seeded(), torch.tensor([0.0, 1.0, 1.0, 0.0]))
    assert sorted(centres.rows[:, 0].tolist()) == [-1.0, 1.0]


def test_there_are_no_more_clusters_than_distinct_points():
    points = make_points(torch.tensor([[-1.0], [1.0]]).repeat(20, 1))
    assert len(k_means(points, 7, seeded())) == 2


def test_a_fit_on_a_part_is_nearly_as_good_as_on_all(monkeypatch):
    points = make_points(normal(6000, 8))
    whole = inertia(points, k_means(points, 10, seeded()))
    monkeypatch.setattr(kmeans, "FIT_POINTS", 100)
    seen = []
    monkeypatch.setattr(kmeans, "lloyd", lambda *a: seen.append(len(a[0])) or lloyd(*a))
    part = inertia(points, k_means(points, 10, seeded()))
    assert seen == [1000]
    assert part < 1.05 * whole

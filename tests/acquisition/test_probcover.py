import importlib

import torch
from known_evidence import KnownEvidence, normal, seeded

from alprune.acquisition.distances import make_points
from alprune.acquisition.probcover import cover, probcover, squared_radius

# The package offers the function of the same name.
coverage = importlib.import_module("alprune.acquisition.probcover")


def gains_by_counting(rows, centres, limit):
    """How many uncovered rows each row would cover, in float64 from all differences."""
    rows = rows.double()
    squared = (rows[:, None] - rows).square().sum(2)
    open_ = torch.ones(len(rows), dtype=torch.bool)
    for centre in centres:
        open_ &= (rows - centre.double()).square().sum(1) >= limit
    return ((squared < limit) & open_).sum(1)


def test_the_densest_ball_comes_first_and_covered_points_do_not_count_again():
    # Radius 1.5 on a line: {0, 1, 2} around 1; {10, 11} around either; 20 alone.
    line = torch.tensor([[0.0], [1.0], [2.0], [10.0], [11.0], [20.0]])
    points = make_points(line)
    for seed in range(6):
        chosen = cover(points, points[:0], 1.5**2, 3, seeded(seed)).tolist()
        assert chosen[0] == 1
        assert chosen[1] in (3, 4)
        assert chosen[2] == 5
    # A labelled point at 1 covers the first three.
    chosen = cover(points, points[1:2], 1.5**2, 2, seeded()).tolist()
    assert chosen[0] in (3, 4)
    assert chosen[1] == 5


def test_every_choice_covers_as_many_as_any_could(monkeypatch):
    monkeypatch.setattr(coverage, "TILE", 17)
    rows, centres = normal(150, 3), normal(4, 3, seed=1)
    for limit in (0.3, 0.8, 2.0):
        chosen = cover(make_points(rows), make_points(centres), limit, 30, seeded()).tolist()
        assert len(set(chosen)) == 30
        for step, position in enumerate(chosen):
            gains = gains_by_counting(rows, [*centres, *rows[chosen[:step]]], limit)
            left = [i for i in range(150) if i not in chosen[:step]]
            assert gains[position] == gains[left].max()


def test_only_the_direction_of_an_embedding_counts():
    # Two directions, 30 points each; the lengths differ a thousand times within each.
    angle = 0.05 * normal(60, 1, seed=2)[:, 0] + torch.arange(60).div(30, rounding_mode="floor")
    rows = torch.stack([angle.cos(), angle.sin()], dim=1)
    lengths = torch.logspace(-1.5, 1.5, 60)[torch.randperm(60, generator=seeded(3))]
    chosen = [
        probcover(KnownEvidence(embeddings=scaled, classes=2), 2, seeded(5)).tolist()
        for scaled in (rows, rows * lengths[:, None])
    ]
    assert chosen[0] == chosen[1]
    assert {(index - 100) // 30 for index in chosen[0]} == {0, 1}


def test_ties_are_broken_at_random():
    points = make_points(torch.arange(20.0)[:, None] * 10)
    firsts = {int(cover(points, points[:0], 1.0, 1, seeded(s))[0]) for s in range(20)}
    assert len(firsts) > 8


def test_the_radius_is_where_too_many_balls_become_impure():
    # Distances to the nearest of the other group: 0 -> 10, 4 -> 6, 10 -> 6, 11 -> 7, 13 -> 9.
    points = make_points(torch.tensor([[0.0], [4.0], [10.0], [11.0], [13.0]]))
    groups = torch.tensor([0, 0, 1, 1, 1])
    for purity, radius in {1.0: 6, 0.8: 6, 0.6: 7, 0.4: 9, 0.2: 10}.items():
        assert squared_radius(points, groups, seeded(), purity) == radius**2
    assert squared_radius(points, groups * 0, seeded()) == torch.inf


def test_the_radius_from_a_sample_is_close_to_that_from_all():
    rows = normal(3000, 3)
    points, groups = make_points(rows), (rows[:, 0] > 0).long()
    whole = squared_radius(points, groups, seeded(), sample=3000)
    part = squared_radius(points, groups, seeded(), sample=1000)
    assert part != whole and 0.7 < part / whole < 1.4


def test_each_direction_without_a_label_is_covered():
    at = torch.arange(90) % 3
    rows = torch.eye(3)[at] * (1 + at[:, None]) + 0.02 * normal(90, 3)
    evidence = KnownEvidence(rows, torch.eye(3)[:1])
    chosen = probcover(evidence, 2, seeded()) - 100
    assert sorted(at[chosen].tolist()) == [1, 2]

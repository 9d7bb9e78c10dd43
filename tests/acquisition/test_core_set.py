import torch
from known_evidence import KnownEvidence, normal, seeded

from alprune.acquisition.core_set import farthest_first, k_center
from alprune.acquisition.distances import make_points


def greedy(rows, centres, count):
    """The textbook's greedy k-center: all distances again for each choice, in float64."""
    rows, centres = rows.double(), [centre.double() for centre in centres]
    chosen = []
    for _ in range(count):
        distances = (rows[:, None] - torch.stack(centres)).norm(dim=2).min(1).values
        distances[chosen] = -1.0
        chosen.append(int(distances.argmax()))
        centres.append(rows[chosen[-1]])
    return chosen


def test_the_farthest_is_taken_and_counts_as_a_centre_from_then_on():
    # Labelled 0 on a line: 10 is farthest; then 5 is 5 away from both; then 7.5 is 2.5 away.
    line = torch.tensor([[2.0], [5.0], [7.5], [10.0]])
    evidence = KnownEvidence(line, [[0.0]])
    assert k_center(evidence, 4, seeded()).tolist() == [103, 101, 102, 100]


def test_choices_equal_the_textbooks_in_float64():
    for seed in range(3):
        rows, centres = normal(120, 6, seed=seed), normal(5, 6, seed=seed + 10)
        chosen = farthest_first(make_points(rows), make_points(centres), 20, seeded())
        assert chosen.tolist() == greedy(rows, centres, 20)


def test_without_labelled_points_the_first_choice_is_random_and_the_rest_farthest():
    rows = normal(50, 3)
    points = make_points(rows)
    firsts = set()
    for seed in range(8):
        first, *rest = farthest_first(points, points[:0], 6, seeded(seed)).tolist()
        assert rest == greedy(rows, [rows[first]], 5)
        firsts.add(first)
    assert len(firsts) > 3


def test_embeddings_far_from_the_origin_are_resolved():
    rows = normal(80, 4) * 1e-2 + 100  # squared norms of 40,000, squared distances of 1e-3
    expected = greedy(rows[5:], list(rows[:5]), 10)
    chosen = k_center(KnownEvidence(rows[5:], rows[:5]), 10, seeded())
    assert (chosen - 100).tolist() == expected


def test_points_that_are_all_alike_are_taken_once_each():
    points = make_points(torch.ones(5, 3))
    assert sorted(farthest_first(points, points[:1], 5, seeded()).tolist()) == [0, 1, 2, 3, 4]

import torch
from known_evidence import KnownEvidence, normal, seeded

from alprune.acquisition.falcun import contrastive, falcun

ROWS = torch.tensor([[0.5, 0.5, 0.0], [0.9, 0.1, 0.0], [0.0, 0.4, 0.6], [0.0, 0.0, 1.0]])


def frequencies(draws, size):
    counts = torch.zeros(size, dtype=torch.float64)
    for position in draws:
        counts[position] += 1
    return counts


def assert_frequencies(counts, weights):
    expected = counts.sum() * weights / weights.sum()
    assert ((counts - expected).abs() <= 4 * expected.sqrt() + 1e-9).all(), (counts, expected)


def test_the_first_is_drawn_by_uncertainty_plus_scaled_uncertainty():
    # Margins 0, 0.8, 0.2, 1: uncertainties 1, 0.2, 0.8, 0, already scaled to 0..1.
    generator = seeded()
    first = [int(contrastive(ROWS, 1, generator, gamma=2.0)[0]) for _ in range(2000)]
    weights = (2 * torch.tensor([1.0, 0.2, 0.8, 0.0], dtype=torch.float64)) ** 2
    assert_frequencies(frequencies(first, 4), weights)


def test_the_second_is_drawn_by_uncertainty_plus_distance_to_the_first():
    # After point 0: L1 distances 0.8, 1.2, 2 to points 1, 2, 3; the smaller of these and the
    # uncertainties is 0.2, 0.8, 0, which scales to 0.25, 1, 0.
    generator = seeded()
    pairs = [contrastive(ROWS, 2, generator, gamma=1.0).tolist() for _ in range(3000)]
    second = [b for a, b in pairs if a == 0]
    assert len(second) > 1000
    weights = torch.tensor([0, 0.2 + 0.25, 0.8 + 1.0, 0.0], dtype=torch.float64)
    assert_frequencies(frequencies(second, 4), weights)


def test_a_large_gamma_takes_the_most_uncertain_first():
    rows = normal(50, 4).softmax(1)
    top = rows.topk(2, dim=1).values
    expected = int((top[:, 0] - top[:, 1]).argmin())
    assert all(int(contrastive(rows, 1, seeded(s), gamma=5000.0)[0]) == expected for s in range(9))


def test_copies_of_an_acquired_prediction_become_unlikely():
    # 50 copies of the most uncertain prediction and one other; copies are at distance 0.
    rows = torch.cat([torch.tensor([[0.45, 0.45, 0.1]]).repeat(50, 1), ROWS[2:3]])
    evidence = KnownEvidence(torch.zeros(51, 1), probabilities=rows)
    seconds = [falcun(evidence, 2, seeded(seed)).tolist() for seed in range(60)]
    assert sum(150 in pair for pair in seconds) > 30

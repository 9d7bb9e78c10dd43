import importlib

import torch
from known_evidence import KnownEvidence, normal, seeded

from alprune.acquisition.badge import badge, gradient_seeds

# The package offers the function of the same name.
gradients_module = importlib.import_module("alprune.acquisition.badge")


def gradients(probabilities, embeddings):
    """The gradients of the cross-entropy at the last layer's weights, by autograd, in float64."""
    rows = []
    for p, x in zip(probabilities.double(), embeddings.double(), strict=True):
        weights = torch.zeros(len(p), len(x), dtype=torch.float64, requires_grad=True)
        logits = p.log() + weights @ x
        torch.nn.functional.cross_entropy(logits, p.argmax()).backward()
        rows.append(weights.grad.flatten())
    return torch.stack(rows)


def test_factored_distances_equal_those_of_the_gradients(monkeypatch):
    embeddings, probabilities = normal(30, 5), normal(30, 4, seed=1).softmax(1)
    explicit = gradients(probabilities, embeddings)
    seen = {}

    def record(squared_to, first, count, generator):
        for at in range(30):
            seen[at] = squared_to(torch.tensor([at]))
        return first

    monkeypatch.setattr(gradients_module, "seeds", record)
    evidence = KnownEvidence(embeddings, probabilities=probabilities)
    first = int(badge(evidence, 1, seeded())[0]) - 100
    assert first == int(explicit.norm(dim=1).argmax())
    for at, squared in seen.items():
        expected = (explicit - explicit[at]).square().sum(1)
        assert torch.allclose(squared.double(), expected, atol=1e-6)


def test_the_second_is_drawn_by_squared_distance_of_the_gradients():
    embeddings, probabilities = normal(6, 3), normal(6, 3, seed=1).softmax(1)
    explicit = gradients(probabilities, embeddings)
    evidence = KnownEvidence(embeddings, probabilities=probabilities)
    generator = seeded()
    counts = torch.zeros(6, dtype=torch.float64)
    for _ in range(1000):
        first, second = (badge(evidence, 2, generator) - 100).tolist()
        counts[second] += 1
    squared = (explicit - explicit[first]).square().sum(1)
    expected = 1000 * squared / squared.sum()
    assert ((counts - expected).abs() <= 4 * expected.sqrt()).all()


def test_once_all_gradients_are_covered_the_rest_is_uniform():
    errors = torch.tensor([[0.5, -0.5], [-0.5, 0.5]]).repeat(10, 1)
    drawn = torch.zeros(20)
    for seed in range(300):
        chosen = gradient_seeds(errors, torch.ones(20, 3), 5, seeded(seed))
        assert chosen.unique().numel() == 5
        assert (errors[chosen[0]] != errors[chosen[1]]).all()
        drawn[chosen[2:]] += 1
    # 0 is always the first, and the second is odd: of 18 three more are drawn.
    assert (drawn[2::2] - 300 / 6).abs().max() < 5 * 6.5  # standard deviations
    assert (drawn[1::2] - 300 * 0.9 / 6).abs().max() < 5 * 6.2

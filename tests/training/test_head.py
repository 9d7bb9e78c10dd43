"""The head of a frozen learner: the regression, the labels that spread, what is learnt from."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from alprune.errors import ConfigError
from alprune.training.head import Head, HeadSettings, Neighbours, fit_linear, principal, surest

PLAIN = HeadSettings(strength=2.0, guesses=0)


def clouds(count, classes=3, spread=0.6, dimensions=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % classes
    centres = 2 * torch.randn(classes, dimensions, generator=generator)
    return centres[labels] + spread * torch.randn(count, dimensions, generator=generator), labels


def test_regression_equals_scikit_learns():
    x, y = clouds(60, spread=2.0)
    layer = torch.nn.Linear(8, 3)
    torch.nn.init.zeros_(layer.weight), torch.nn.init.zeros_(layer.bias)
    fit_linear(x, y, torch.ones(60), HeadSettings(strength=2.0, iterations=500), layer)
    theirs = LogisticRegression(C=2.0, max_iter=2000, tol=1e-8).fit(x.numpy(), y.numpy())
    assert np.abs(layer.weight.detach().numpy() - theirs.coef_).max() < 0.02
    ours = (x @ layer.weight.T + layer.bias).softmax(1).detach().numpy()
    assert np.abs(ours - theirs.predict_proba(x.numpy())).max() < 0.005


def test_a_weight_of_two_equals_the_image_twice():
    x, y = clouds(20, spread=2.0)
    one, two = torch.nn.Linear(8, 3), torch.nn.Linear(8, 3)
    two.load_state_dict(one.state_dict())
    weights = torch.ones(20)
    weights[:5] = 2
    fit_linear(x, y, weights, HeadSettings(iterations=300), one)
    twice = torch.cat([x, x[:5]]), torch.cat([y, y[:5]])
    fit_linear(*twice, torch.ones(25), HeadSettings(iterations=300), two)
    assert torch.allclose(one.weight, two.weight, atol=1e-2)


def test_a_class_without_labels_is_made_unlikely():
    x, y = clouds(40)
    layer = torch.nn.Linear(8, 5)
    fit_linear(x, y, torch.ones(40), replace(PLAIN, iterations=1000), layer)
    probabilities = (x @ layer.weight.T + layer.bias).softmax(1).detach()
    assert float(probabilities[:, 3:].max()) < 0.05
    assert layer.bias.isfinite().all()
    # The derivative by the bias of a class without labels: its probabilities against the pull.
    pull = -1e-3 * layer.bias[3:] / PLAIN.strength
    # The fit ends where no derivative of the mean over 40 images exceeds 1e-5 by much.
    assert torch.allclose(probabilities[:, 3:].sum(0), pull, atol=8e-4)
    assert float(pull.min()) > 1.2e-3


def test_head_computes_what_its_plain_weights_compute():
    x, y = clouds(40)
    head = Head.over(x, 3)
    fit_linear(head.scaled(x), y, torch.ones(40), PLAIN, head.linear)
    weight, bias = head.plain()
    assert torch.allclose(head(x), x @ weight.T + bias, atol=1e-5)
    assert float(head.scaled(x).norm(dim=1).mean()) == pytest.approx(1.0, rel=1e-5)
    assert (head(x).argmax(1) == y).float().mean() > 0.95


def test_equal_embeddings_have_a_scale():
    head = Head.over(torch.ones(4, 8), 2)
    assert head(torch.ones(3, 8)).isfinite().all()


def test_labels_spread_to_the_images_around_them():
    x, y = clouds(90, spread=0.3)
    graph = Neighbours(x, HeadSettings(neighbours=5, components=4))
    rows = torch.tensor([0, 1, 2])
    guess = graph.spread(rows, y[rows], 3)
    assert guess.shape == (90, 3)
    assert (guess.argmax(1) == y).float().mean() > 0.95


def test_spreading_agrees_with_the_closed_form():
    x, y = clouds(30, spread=1.5)
    settings = HeadSettings(neighbours=6, components=8, reach=0.5)
    graph = Neighbours(x, settings)
    rows = torch.arange(6)
    guess = graph.spread(rows, y[rows], 3).double()
    start = torch.zeros(30, 3, dtype=torch.float64)
    start[rows, y[rows]] = 1
    matrix = torch.from_numpy(graph._graph.toarray()).double()
    exact = torch.linalg.solve(torch.eye(30, dtype=torch.float64) - 0.5 * matrix, start)
    exact = exact / exact.sum(1, keepdim=True)
    assert torch.allclose(guess, exact, atol=1e-4)


def test_neighbourhood_is_mutual_and_nothing_is_its_own_neighbour():
    x, _ = clouds(30, spread=1.5)
    graph = Neighbours(x, HeadSettings(neighbours=4, components=8))._graph.toarray()
    assert np.allclose(graph, graph.T) and not graph.diagonal().any()
    assert (graph > 0).sum(1).min() >= 4


def test_neighbours_are_the_same_in_blocks(monkeypatch):
    x, _ = clouds(50)
    whole = Neighbours(x, HeadSettings(neighbours=4, components=8))._graph.toarray()
    monkeypatch.setattr("alprune.training.head._BLOCK", 7)
    parts = Neighbours(x, HeadSettings(neighbours=4, components=8))._graph.toarray()
    assert np.allclose(whole, parts, atol=1e-6)


def test_the_surest_of_a_rare_class_are_learnt_from_too():
    guess = torch.full((20, 2), 0.5)
    guess[:16, 0], guess[:16, 1] = 0.99, 0.01  # a common class, all very sure
    guess[16:, 0], guess[16:, 1] = 0.4, 0.6  # a rare one, less so
    chosen = surest(guess, 0.5)
    assert len(chosen) == 10
    assert (chosen >= 16).sum() == 2


def test_images_that_no_label_reaches_are_not_guessed():
    guess = torch.zeros(6, 3)
    guess[0, 1] = 1.0
    assert surest(guess, 1.0).tolist() == [0]


@pytest.mark.parametrize("fails", [False, True])
def test_principal_components_are_those_of_the_spread_around_the_middle(fails, monkeypatch):
    eigh = torch.linalg.eigh

    def single_precision_fails(matrix):
        if matrix.dtype == torch.float32:
            raise torch.linalg.LinAlgError("the algorithm failed to converge")
        return eigh(matrix)

    if fails:  # as LAPACK's does on some covariances of fewer images than channels
        monkeypatch.setattr(torch.linalg, "eigh", single_precision_fails)
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(200, 5, generator=generator).pow(4) * torch.tensor([9.0, 3.0, 2.0, 1.0, 1.0])
    found = principal(x, 2)
    points = torch.nn.functional.normalize(x - x.mean(0), dim=1).double()
    points -= points.mean(0)
    theirs = points @ torch.linalg.svd(points, full_matrices=False).Vh[:2].T
    theirs = torch.nn.functional.normalize(theirs, dim=1)
    assert torch.allclose(found.double() @ found.double().T, theirs @ theirs.T, atol=1e-3)


def test_impossible_settings_are_refused():
    with pytest.raises(ConfigError, match="strength > 0"):
        HeadSettings(strength=0)

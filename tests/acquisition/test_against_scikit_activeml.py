"""The same choices as scikit-activeml's on the same embeddings, where they are not random."""

import numpy as np
import pytest
import torch
from known_evidence import KnownEvidence, normal, seeded

from alprune.acquisition.badge import badge, gradient_seeds
from alprune.acquisition.core_set import k_center
from alprune.acquisition.distances import make_points
from alprune.acquisition.probcover import cover, squared_radius
from alprune.acquisition.typiclust import typical

pytest.importorskip("skactiveml")


def table(rows, labelled):
    """Features and labels as scikit-activeml takes them: the labelled rows first."""
    y = np.full(len(rows), np.nan)
    y[: len(labelled)] = 0
    return rows.double().numpy(), y


def fixed_classifier(probabilities):
    from skactiveml.base import SkactivemlClassifier

    class Fixed(SkactivemlClassifier):
        def fit(self, x, y, sample_weight=None):
            return self

        def predict_proba(self, x):
            return probabilities.double().numpy()

    return {"clf": Fixed(classes=list(range(probabilities.shape[1]))), "fit_clf": False}


def test_the_core_set_is_the_same():
    from skactiveml.pool import CoreSet

    labelled, rows = normal(6, 8, seed=1), normal(300, 8)
    x, y = table(torch.cat([labelled, rows]), labelled)
    theirs = CoreSet(random_state=0).query(x, y, batch_size=40)
    ours = k_center(KnownEvidence(rows, labelled), 40, seeded())
    assert (ours - 100).tolist() == (theirs - 6).tolist()


def test_badge_measures_the_same_distances(monkeypatch):
    # Theirs draws by min(|g|^2, squared distance), as if the origin had been chosen before; the
    # authors' code and ours draw by the squared distance. So ours, so cut, must be theirs.
    from skactiveml.pool import Badge

    from alprune.acquisition import kmeans

    rows, probabilities = normal(80, 6), normal(80, 4, seed=1).softmax(1)
    x, y = table(rows, [])
    theirs, chances = Badge(random_state=0).query(
        x, y, batch_size=8, return_utilities=True, **fixed_classifier(probabilities)
    )
    evidence = KnownEvidence(rows, probabilities=probabilities, classes=4)
    errors, _ = evidence.gradient_factors
    largest = errors.square().sum(1) * rows.square().sum(1)
    seen, script = [], iter(theirs[1:])

    def follow(weights, generator):
        cut = torch.minimum(weights, largest)
        seen.append(cut / cut.sum())
        return torch.tensor([int(next(script))])

    monkeypatch.setattr(kmeans, "draw", follow)
    assert (badge(evidence, 8, seeded()) - 100).tolist() == list(theirs)
    expected = torch.from_numpy(np.nan_to_num(chances[1:]))
    assert torch.allclose(torch.stack(seen).double(), expected, atol=1e-6)


@pytest.mark.filterwarnings("ignore:The maximum purity")
def test_coverage_gains_are_the_same():
    from skactiveml.pool import ProbCover

    labelled, rows = normal(5, 3, seed=1), normal(200, 3)
    limit = 0.7**2
    chosen = cover(make_points(rows), make_points(labelled), limit, 15, seeded()).tolist()
    x, y = table(torch.cat([labelled, rows]), labelled)
    for position in chosen:
        _, gains = ProbCover(deltas=[0.7], random_state=0).query(x, y, return_utilities=True)
        assert gains[0][5 + position] == np.nanmax(gains[0])
        y[5 + position] = 0


def test_the_radius_lies_between_the_last_pure_and_the_first_impure_one():
    from skactiveml.pool import ProbCover

    rows = torch.cat([normal(60, 2), normal(60, 2, seed=1) + 6])
    groups = torch.arange(120) // 60
    radius = squared_radius(make_points(rows), groups, seeded()) ** 0.5
    deltas = np.arange(0.1, 6.0, 0.1)

    class Known:
        def __init__(self, n_clusters):
            pass

        def fit_predict(self, x):
            return groups.numpy()

    theirs = ProbCover(n_classes=2, deltas=deltas, cluster_algo=Known, random_state=0)
    theirs.query(*table(rows, []))
    assert theirs.delta_max_ <= radius <= theirs.delta_max_ + 0.1 + 1e-9


def test_the_most_typical_of_the_largest_unlabelled_clusters_are_the_same():
    from skactiveml.pool import TypiClust

    groups = torch.repeat_interleave(torch.arange(4), torch.tensor([50, 40, 30, 20]))
    rows = normal(140, 5)

    class Known:
        def __init__(self, n_clusters):
            pass

        def fit_predict(self, x):
            return groups.numpy()

    x, y = table(rows, [])
    y[0] = 0  # in the largest cluster, which is therefore covered
    theirs = TypiClust(cluster_algo=Known, random_state=0, k=7).query(x, y, batch_size=3)
    ours = typical(
        make_points(rows[1:]), groups[1:], torch.tensor([1, 0, 0, 0]), 3, seeded(), neighbours=7
    )
    assert (ours + 1).tolist() == theirs.tolist()


def test_gradient_seeds_begin_at_the_largest_gradient_as_theirs():
    from skactiveml.pool import Badge

    rows, probabilities = normal(50, 3), normal(50, 3, seed=1).softmax(1)
    errors = probabilities - torch.nn.functional.one_hot(probabilities.argmax(1), 3)
    x, y = table(rows, [])
    theirs = Badge(random_state=0).query(x, y, **fixed_classifier(probabilities))
    assert int(gradient_seeds(errors, rows, 1, seeded())[0]) == int(theirs[0])

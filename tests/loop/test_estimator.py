import inspect
import pickle
import warnings

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import check_X_y
from sklearn.utils.estimator_checks import parametrize_with_checks

from alprune import PrunedClassifier
from alprune.errors import AlpruneError, ConfigError, InputError

DIGITS = load_digits()
CONVOLUTIONS = {"model": "tiny_learner:build", "options": {"min_channels": 2}}


def tiny(**changes):
    """A classifier that fits a few hundred digits in a fraction of a second."""
    base = {
        "model": "lenet-300-100",
        "method": "3sp",
        "epochs": 6,
        "batch_size": 32,
        "random_state": 0,
        "device": "cpu",
        "precision": "fp32",
    }
    return PrunedClassifier(**(base | changes))


@pytest.fixture(scope="module")
def digits():
    """400 digits as 8x8 images, 16 grey levels in floats, and their classes."""
    order = np.random.default_rng(0).permutation(len(DIGITS.target))[:400]
    return DIGITS.images[order], DIGITS.target[order]


MAY_FAIL = {
    "check_methods_subset_invariance": "asks for 1e-7, but float32 products of another size may "
    "be summed in another order (on some machines; others pass)",
}


@parametrize_with_checks(
    [PrunedClassifier(epochs=5, device="cpu", precision="fp32", random_state=0)],
    expected_failed_checks=lambda estimator: MAY_FAIL,
)
def test_scikit_learns_own_checks(estimator, check):
    check(estimator)


def test_digits_are_learnt_by_a_pruned_network(digits):
    x, y = digits
    classifier = tiny(epochs=15, **CONVOLUTIONS).fit(x[:200], y[:200])
    assert classifier.score(x[200:], y[200:]) > 0.7
    assert classifier.pruned_.flops_reduction >= 0.5
    assert classifier.n_features_in_ == 64 and classifier.image_shape_ == (8, 8, 1)
    assert torch.equal(torch.tensor(classifier.classes_), torch.arange(10))


def test_images_and_rows_of_any_kind_give_the_same_network(digits):
    x, y = digits[0][:100], digits[1][:100]
    as_bytes = x.astype(np.uint8)
    expected = tiny().fit(x, y).predict_proba(x)
    for given, shape in [
        (x[..., None], None),
        (x.reshape(100, 64), (8, 8)),
        (x.reshape(100, 64), (8, 8, 1)),
        (torch.from_numpy(x), None),
        (x.tolist(), None),
    ]:
        assert np.array_equal(tiny(image_shape=shape).fit(given, y).predict_proba(given), expected)
    from_bytes = tiny().fit(as_bytes, y)
    assert np.allclose(from_bytes.predict_proba(as_bytes), expected, atol=1e-3)
    assert np.allclose(from_bytes.predict_proba(x), expected, atol=1e-3)
    assert np.allclose(tiny().fit(x, y).predict_proba(as_bytes), expected, atol=1e-3)


def test_labels_may_be_strings(digits):
    x, y = digits
    names = np.array([f"digit {digit}" for digit in y])
    classifier = tiny().fit(x, names)
    assert np.array_equal(classifier.predict(x), classifier.classes_[tiny().fit(x, y).predict(x)])
    assert classifier.predict_proba(x[:3]).sum(1) == pytest.approx(1)


def test_a_seed_repeats_bit_for_bit_and_leaves_global_randomness_alone(digits):
    x, y = digits
    before, numpys = torch.get_rng_state(), np.random.get_state()[1].copy()
    first, again, other = (tiny(random_state=s).fit(x, y).predict_proba(x) for s in (1, 1, 2))
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(np.random.get_state()[1], numpys)


def test_fit_starts_anew_and_a_warm_start_goes_on(digits):
    x, y = digits
    cold, warm = tiny(epochs=2), tiny(epochs=2, warm_start=True)
    for classifier in (cold, warm):
        classifier.fit(x, y)
        assert np.array_equal(classifier.predict_proba(x), cold.predict_proba(x))
    pruned = warm.pruned_
    once = cold.score(x, y)
    for _ in range(4):
        cold.fit(x, y)
        warm.fit(x, y)
    assert cold.score(x, y) == once
    assert warm.score(x, y) > once
    assert warm.pruned_ is pruned


def test_a_warm_start_with_new_classes_prunes_anew(digits):
    x, y = digits
    classifier = tiny(warm_start=True).fit(x[y < 5], y[y < 5])
    pruned = classifier.pruned_
    classifier.fit(x, y)
    assert classifier.pruned_ is not pruned
    assert len(classifier.classes_) == 10


def test_partial_fit_goes_on_with_what_comes(digits):
    x, y = digits
    classifier = tiny().partial_fit(x[:20], np.repeat(y[:1], 20), classes=range(10))
    for _ in range(8):
        for part in np.array_split(np.arange(200), 2):
            classifier.partial_fit(x[part], y[part])
    assert classifier.score(x[200:], y[200:]) > 0.8


def test_a_pickled_classifier_goes_on_where_it_was(digits):
    x, y = digits
    classifier = tiny().fit(x[:200], y[:200])
    frozen = pickle.dumps(classifier)
    thawed = pickle.loads(frozen)
    assert np.array_equal(thawed.predict_proba(x), classifier.predict_proba(x))
    for each in (classifier, thawed):
        each.partial_fit(x[200:], y[200:])
    assert np.array_equal(thawed.predict_proba(x), classifier.predict_proba(x))
    parameters = sum(p.numel() for p in classifier.learner_.model.parameters())
    assert len(frozen) < 5 * 4 * parameters + 60_000  # weights and momentum, but no images


def test_a_clone_has_the_parameters_but_no_network(digits):
    classifier = tiny(flops_reduction=0.3).fit(*digits)
    copy = clone(classifier)
    assert copy.get_params() == classifier.get_params()
    with pytest.raises(NotFittedError):
        copy.predict(digits[0])


def test_grid_search_finds_its_way_over_flops_reduction(digits):
    x, y = digits
    search = GridSearchCV(
        tiny(image_shape=(8, 8), epochs=4), {"flops_reduction": np.array([0.2, 0.5])}, cv=2
    )
    search.fit(x.reshape(len(x), -1)[:200], y[:200])
    best = search.best_params_["flops_reduction"]
    assert best <= search.best_estimator_.pruned_.flops_reduction < best + 0.1
    assert (search.cv_results_["mean_test_score"] > 0.5).all()


def test_it_ends_a_pipeline(digits):
    x, y = digits[0].reshape(400, 64), digits[1]
    pipeline = make_pipeline(StandardScaler(), tiny(image_shape=(8, 8)))
    assert pipeline.fit(x[:200], y[:200]).score(x[200:], y[200:]) > 0.7


def test_a_budget_ends_a_fit(digits):
    classifier = tiny(epochs=1e6, budget_s=0.5).fit(*digits)
    assert 0 < classifier.learner_.batches < 1e6 * 400 / 32


def test_options_reach_pruning_and_training(digits):
    classifier = tiny(
        method="snip", options={"params_reduction": 0.8, "averaging": 0.0}, epochs=1
    ).fit(*digits)
    assert classifier.pruned_.plan.sparsity == pytest.approx(0.8, abs=0.01)
    assert classifier.learner_.averaged is classifier.learner_.model


def test_a_network_can_be_pruned_during_training(digits):
    classifier = tiny(method="epi", **CONVOLUTIONS)
    classifier.set_params(options={"prune_at": "2", "min_channels": 2}).fit(*digits)
    assert classifier.learner_.early.pruned_in == 2
    assert pickle.loads(pickle.dumps(classifier)).score(*digits) > 0.3


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"method": "3sp-c"}, ConfigError, "Did you mean '3sp-ca'"),
        ({"options": {"min_chanels": 2}}, ConfigError, "Did you mean 'min_channels'"),
        (
            {"options": {"learner": "frozen"}},
            ConfigError,
            "holds 'learner'. It takes options about",
        ),
        ({"options": {"acquisition": "margin"}}, ConfigError, "holds 'acquisition'"),
        ({"options": {"epochs": 3}}, ConfigError, "holds 'epochs'"),
        ({"batch_size": 1.5}, ConfigError, "batch_size must be a whole number"),
        ({"image_shape": (8, 9)}, InputError, r"\(8, 9\) does not fit rows of 64"),
        ({"flops_reduction": 1.5, "image_shape": (8, 8)}, AlpruneError, "less than 1"),
        ({"model": "vgg19", "image_shape": (8, 8)}, AlpruneError, "takes 16x16 or more"),
    ],
)
def test_a_parameter_that_is_not_possible_says_so(digits, changes, error, message):
    x, y = digits[0].reshape(400, 64), digits[1]
    with pytest.raises(error, match=message):
        tiny(**changes).fit(x, y)


def test_input_that_does_not_fit_is_a_value_error(digits):
    x, y = digits
    classifier = tiny().fit(x, y)
    with pytest.raises(ValueError, match=r"shape \(4, 16, 1\); fitted were \(8, 8, 1\)"):
        classifier.predict(x.reshape(-1, 4, 16))
    with pytest.raises(ValueError, match="label 11 is none of the classes"):
        classifier.partial_fit(x, y + 2)
    with pytest.raises(ValueError, match="differ from those of the first call"):
        classifier.partial_fit(x, y, classes=range(9))
    with pytest.raises(ValueError, match="classes must be passed"):
        tiny().partial_fit(x, y)
    with pytest.raises(ValueError, match="greater than one"):
        tiny().fit(x, np.zeros(400))
    with pytest.raises(ValueError, match="NaN"):
        classifier.predict(np.full((2, 8, 8), np.nan))


def test_images_whose_channels_seem_to_come_first_are_warned_about():
    x, y = np.random.default_rng(0).random((8, 3, 12, 12)), np.arange(8) % 2
    with pytest.warns(UserWarning, match=r"3 x 12 pixels with 12 channels.*transpose\(0, 2, 3, 1"):
        tiny(epochs=1).fit(x, y)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        tiny(epochs=1).fit(x.transpose(0, 2, 3, 1), y)


def test_a_fit_that_fails_leaves_nothing_to_predict_with(digits):
    classifier = tiny().fit(*digits)
    with pytest.raises(ConfigError):
        classifier.set_params(method="no such").fit(*digits)
    with pytest.raises(NotFittedError):
        classifier.predict(digits[0])


def test_every_parameter_is_explained():
    names = list(inspect.signature(PrunedClassifier).parameters)
    arguments = inspect.getdoc(PrunedClassifier).partition("Args:")[2].partition("Attributes:")[0]
    assert [n for n in names if f"\n    {n}: " not in arguments] == []


def checked(X, y, *, force_all_finite=True, **others):
    """Scikit-learn's check_X_y under the name that its argument had before version 1.8."""
    return check_X_y(X, y, ensure_all_finite=force_all_finite, **others)


def test_modal_learns_with_it(digits, monkeypatch):
    models = pytest.importorskip("modAL.models")
    # modAL 0.4.2.1, the latest, calls scikit-learn as it was before 1.8.
    for module in (models.base, models.learners):
        monkeypatch.setattr(module, "check_X_y", checked, raising=False)
    x, y = digits
    learner = models.ActiveLearner(
        estimator=tiny(warm_start=True, epochs=4), X_training=x[:50], y_training=y[:50]
    )
    pool = np.arange(50, 200)
    pruned = learner.estimator.pruned_
    for _ in range(3):
        chosen, _ = learner.query(x[pool], n_instances=20)
        learner.teach(x[pool[chosen]], y[pool[chosen]])
        pool = np.delete(pool, chosen)
    assert learner.X_training.shape == (110, 8, 8)
    assert learner.estimator.pruned_ is pruned
    assert learner.score(x[200:], y[200:]) > 0.7


def test_scikit_activeml_queries_with_it(digits):
    pytest.importorskip("skactiveml")
    from skactiveml.classifier import SklearnClassifier
    from skactiveml.pool import UncertaintySampling

    x, y = digits[0].reshape(400, 64), digits[1]
    known = np.full(200, np.nan)
    known[:50] = y[:50]
    classifier = SklearnClassifier(tiny(image_shape=(8, 8), epochs=4), classes=range(10))
    strategy = UncertaintySampling(method="entropy", random_state=0)
    for _ in range(3):
        chosen = strategy.query(x[:200], known, classifier, batch_size=20)
        assert np.isnan(known[chosen]).all()
        known[chosen] = y[chosen]
    assert classifier.fit(x[:200], known).score(x[200:], y[200:]) > 0.5


# --- units, single points ---


@pytest.mark.parametrize(
    ("fitted", "given"),
    [
        (lambda x: (x * 15).astype(np.uint8), lambda x: x / 17),
        (lambda x: np.floor(x * 15), lambda x: x / 17),
        (lambda x: x / 16, lambda x: x * 15),
        (lambda x: x / 16, lambda x: (x * 15).astype(np.uint8)),
    ],
)
def test_images_in_another_unit_than_those_fitted_are_warned_about(digits, fitted, given):
    x, y = digits
    classifier = tiny().fit(fitted(x)[:100], y[:100])
    with pytest.warns(UserWarning, match="Scale X as the images that were fitted"):
        classifier.predict(given(x)[:20])
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        classifier.predict(fitted(x)[100:200])
        classifier.predict(fitted(x)[:1] * 0)


@pytest.mark.parametrize("options", [{}, CONVOLUTIONS])
def test_partial_fit_takes_single_points_after_the_first_call(digits, options):
    x, y = digits
    classifier = tiny(**options)
    with pytest.raises(ValueError, match="minimum of 2"):
        classifier.partial_fit(x[:1], y[:1], classes=range(10))
    classifier.partial_fit(x[:2], y[:2], classes=range(10))
    for number in range(2, 5):
        classifier.partial_fit(x[number : number + 1], y[number : number + 1])
    assert np.isfinite(classifier.predict_proba(x[:5])).all()

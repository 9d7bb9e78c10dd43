import pytest
import torch

from alprune.acquisition.features import patch_features
from alprune.acquisition.initial import STARTS, ColdPool, first_points
from alprune.errors import ConfigError, DataError


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def stripes(sizes=(60, 40, 20), side=12, noise=0.3):
    """Grey images with stripes: upright, lying or slanted, in any phase, a little noise."""
    draws = generator(7)
    labels = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    labels = labels[torch.randperm(len(labels), generator=draws)]
    row, column = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    waves = torch.stack([1.0 * row, 1.0 * column, 0.7 * (row + column)])[labels]
    phase = 6.3 * torch.rand(len(labels), 1, 1, generator=draws)
    x = (waves * 1.6 + phase).sin() + noise * torch.randn(waves.shape, generator=draws)
    x = (127 + 60 * x).clamp(0, 255).to(torch.uint8)[..., None]
    return ColdPool(x, ("a", "b", "c"), labels)


def names():
    return sorted(STARTS)


@pytest.mark.parametrize("name", names())
@pytest.mark.parametrize("count", [3, 20, 57])
def test_every_start_returns_distinct_points_that_repeat_by_seed(name, count):
    pool = stripes()
    chosen = first_points(name, pool, count, generator())
    assert chosen.shape == chosen.unique().shape == (count,)
    assert torch.equal(chosen, first_points(name, pool, count, generator()))


@pytest.mark.parametrize("name", ["random", "typiclust"])
def test_a_start_without_labels_needs_none_and_may_take_everything(name):
    pool = stripes()
    chosen = first_points(name, ColdPool(pool.x, pool.classes), len(pool), generator())
    assert torch.equal(chosen, torch.arange(len(pool)))


@pytest.mark.parametrize("name", names())
def test_the_global_random_state_stays(name):
    before = torch.get_rng_state()
    first_points(name, stripes(), 9, generator())
    assert torch.equal(torch.get_rng_state(), before)


def test_a_balanced_start_has_as_many_of_each_class_and_spreads_the_rest():
    pool = stripes()
    counts = pool.labels[first_points("balanced", pool, 20, generator())].bincount()
    assert sorted(counts.tolist()) == [6, 7, 7]


def test_a_balanced_start_may_take_the_whole_of_a_class():
    pool = stripes()
    counts = pool.labels[first_points("balanced", pool, 60, generator())].bincount()
    assert counts.tolist() == [20, 20, 20]  # all that there are of the last


def test_a_random_start_follows_the_pool():
    pool = stripes((600, 300, 100))
    counts = pool.labels[first_points("random", pool, 500, generator())].bincount()
    assert counts.sum() == 500 and (counts - torch.tensor([300, 150, 50])).abs().max() < 30


def test_typical_points_cover_the_classes_in_fewer_labels_than_random_ones():
    pool = stripes((150, 100, 14))
    found = {name: 0 for name in ("random", "typiclust")}
    for name in found:
        for seed in range(3):
            chosen = first_points(name, pool, 6, generator(seed))
            found[name] += pool.labels[chosen].unique().numel()
    assert found["typiclust"] > found["random"]


@pytest.mark.parametrize(
    ("count", "message"),
    [
        (90, "class 'c' has 20 .* needs 30. Lower --initial to at most 60, or choose --start"),
        (2, r"one a class \(3\)"),
        (999, r"at most the training set \(120\)"),
        (0, "at least 1"),
    ],
)
def test_an_impossible_start_says_what_is_possible(count, message):
    with pytest.raises(DataError, match=message):
        first_points("balanced", stripes(), count, generator())


def test_a_balanced_start_without_labels_says_what_to_choose():
    pool = stripes()
    with pytest.raises(DataError, match="--start random or typiclust"):
        first_points("balanced", ColdPool(pool.x, pool.classes), 9, generator())


def last(pool, count, generator):
    return torch.arange(len(pool) - count, len(pool))


def test_a_start_of_ones_own_is_taken_by_name_or_as_a_function():
    pool = stripes()
    for given in (last, f"{__name__}:last"):
        assert torch.equal(first_points(given, pool, 5, generator()), torch.arange(115, 120))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda pool, count, generator: torch.zeros(count, dtype=torch.int64), "distinct"),
        (lambda pool, count, generator: torch.arange(count) + 118, "0..119"),
        (lambda pool, count, generator: torch.arange(count + 1), "must return 5 indices"),
        (lambda pool, count, generator: [1, 2, 3, 4, 5], "must return 5 indices"),
        (lambda pool, count, generator: 1 / 0, "ZeroDivisionError"),
        ("no-such", "unknown start 'no-such'; known: balanced, random, typiclust"),
        ("math:pi", "must be a function"),
    ],
)
def test_a_start_that_returns_nonsense_is_named(function, message):
    with pytest.raises(ConfigError, match=message):
        first_points(function, stripes(), 5, generator())


@pytest.mark.parametrize(
    "shape", [(30, 8, 8, 1), (30, 1, 1, 5), (2, 3, 70, 3), (9, 40, 33, 3)], ids=str
)
def test_features_are_finite_rows_of_length_one_for_any_images(shape):
    x = torch.randint(256, shape, generator=generator(), dtype=torch.uint8)
    features = patch_features(x, generator(), dimensions=16)
    assert features.shape[0] == shape[0] and features.shape[1] <= 16
    length = features.norm(dim=1)
    assert torch.isfinite(features).all()
    assert ((length - 1).abs() < 1e-4).logical_or(length < 1e-4).all()
    assert (length > 0.5).double().mean() > 0.9


def test_features_of_images_that_are_all_alike_are_finite():
    assert torch.isfinite(patch_features(torch.full((10, 8, 8, 1), 3.0), generator())).all()


def test_features_tell_textures_apart_that_pixels_do_not():
    noise = torch.randn(60, 1, 12, 12, generator=generator())
    pad = torch.nn.functional.pad
    across = pad(noise[20:40], (1, 1, 0, 0), "circular").unfold(3, 3, 1).mean(-1)
    down = pad(noise[40:], (0, 0, 1, 1), "circular").unfold(2, 3, 1).mean(-1)
    images = torch.cat([noise[:20], across, down])
    x = (images / images.flatten(1).std(1).view(-1, 1, 1, 1)).permute(0, 2, 3, 1)
    labels = torch.arange(3).repeat_interleave(20)

    def purity(rows):  # share of points whose nearest other point is of their class
        distance = torch.cdist(rows, rows).fill_diagonal_(torch.inf)
        return float((labels[distance.argmin(1)] == labels).float().mean())

    assert purity(x.flatten(1)) < 0.7
    assert purity(patch_features(x, generator())) > 0.9

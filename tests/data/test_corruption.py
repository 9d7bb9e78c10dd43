import pytest
import torch

from alprune.data import Dataset
from alprune.data.corruption import long_tail, wrong_labels
from alprune.errors import ConfigError


def dataset(sizes):
    """Images that carry their own number, classes one after the other."""
    y = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    x = torch.arange(len(y), dtype=torch.float32).view(-1, 1, 1, 1)
    names = tuple(f"c{c}" for c in range(len(sizes)))
    return Dataset(x, y, names, (0.5,), (0.2,), False, "whole")


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_ten_classes_at_ratio_100_have_the_sizes_of_long_tailed_cifar():
    thin = long_tail(dataset([5000] * 10), 100, generator())
    sizes = torch.bincount(thin.y).tolist()
    assert sizes == [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]
    assert len(thin) == 12_406


def test_images_keep_their_labels_and_their_order():
    whole = dataset([40, 40, 40])
    thin = long_tail(whole, 10, generator())
    number = thin.x.flatten().long()
    assert torch.equal(whole.y[number], thin.y)
    assert torch.equal(number, number.unique())  # ascending, none twice
    assert (thin.classes, thin.mean, thin.std) == (whole.classes, whole.mean, whole.std)
    assert thin.digest != whole.digest


def test_which_points_stay_is_drawn_from_the_generator():
    whole = dataset([40, 40, 40])
    one, same, other = (long_tail(whole, 10, generator(seed)).x for seed in (1, 1, 2))
    assert torch.equal(one, same) and not torch.equal(one, other)
    assert torch.equal(long_tail(whole, 1, generator()).x, whole.x)


def test_a_class_that_is_small_already_keeps_what_it_has():
    assert torch.bincount(long_tail(dataset([100, 7, 100]), 4, generator()).y).tolist() == [
        100, 7, 25
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("ratio", "message"), [(0.5, "at least 1"), (float("nan"), "at least 1"), (50, "at most 40")]
)
def test_an_impossible_imbalance_says_what_is_possible(ratio, message):
    with pytest.raises(ConfigError, match=message):
        long_tail(dataset([40, 40, 40]), ratio, generator())


def test_just_the_share_asked_for_is_wrong_and_every_wrong_class_is_as_likely():
    labels = torch.arange(5).repeat(2000)
    noisy = wrong_labels(labels, 5, 0.3, generator())
    assert int((noisy != labels).sum()) == 3000
    shift = ((noisy - labels) % 5)[noisy != labels]
    counts = torch.bincount(shift, minlength=5)
    assert counts[0] == 0
    squared = ((counts[1:] - 750.0) ** 2 / 750.0).sum()
    assert squared < 16.3  # chi-square of 3 degrees of freedom, 0.1%
    assert torch.equal(labels, torch.arange(5).repeat(2000))


def test_no_noise_and_full_noise():
    labels = torch.arange(2).repeat(50)
    assert torch.equal(wrong_labels(labels, 2, 0.0, generator()), labels)
    assert torch.equal(wrong_labels(labels, 2, 1.0, generator()), 1 - labels)
    with pytest.raises(ConfigError, match=r"in \[0, 1\], got 1.5"):
        wrong_labels(labels, 2, 1.5, generator())

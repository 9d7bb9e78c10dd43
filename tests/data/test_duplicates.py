import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from alprune.data import Splits, duplicates, make_splits

MNIST = Path(__file__).parents[3] / "shared" / "data" / "mnist.npz"
DIGITS = tuple("0123456789")


def splits_of(train: Tensor, test: Tensor, y_train: Tensor, y_test: Tensor) -> Splits:
    names = tuple("abcd"[: int(y_train.max()) + 1])
    return make_splits((train, y_train), (test, y_test), names, flip=False)


def images(numbers: list[int], kind: torch.dtype = torch.uint8) -> Tensor:
    """One image for each number, equal where the numbers are."""
    made = [
        torch.randint(256, (3, 2, 1), generator=torch.Generator().manual_seed(n)) for n in numbers
    ]
    return torch.stack(made).to(kind)


def labels(n: int) -> Tensor:
    return torch.arange(n) % 2


@pytest.mark.parametrize("kind", [torch.uint8, torch.float32])
def test_repeats_are_paired_with_the_first_of_their_content(kind: torch.dtype) -> None:
    train, test = images([5, 6, 5, 7, 5, 7], kind), images([9, 7, 8, 5], kind)
    found = duplicates.find(splits_of(train, test, labels(6), labels(4)))
    assert found.train.tolist() == [[2, 0], [4, 0], [5, 3]]
    assert found.test.tolist() == [[1, 3], [3, 0]]


def test_pairs_with_different_labels_are_counted() -> None:
    train, test = images([5, 6, 5, 6]), images([5, 6])
    y_train, y_test = torch.tensor([0, 1, 0, 0]), torch.tensor([1, 1])
    found = duplicates.find(splits_of(train, test, y_train, y_test))
    assert found.counts() == {"train": 2, "train_conflicts": 1, "test": 2, "test_conflicts": 1}


def test_test_images_that_repeat_each_other_are_no_leak() -> None:
    found = duplicates.find(splits_of(images([1, 2]), images([3, 3]), labels(2), labels(2)))
    assert found.test.shape == (0, 2)


def test_images_that_differ_in_one_bit_are_different() -> None:
    train = images([1, 2, 3, 4])
    test = train.clone()
    test[:, -1, -1, -1] ^= 1
    found = duplicates.find(splits_of(train, test, labels(4), labels(4)))
    assert sum(found.counts().values()) == 0


def test_parts_that_are_read_at_once_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = np.random.default_rng(0).integers(0, 40, 100).tolist()
    splits = splits_of(images(numbers[:60]), images(numbers[60:]), labels(60), labels(40))
    whole = duplicates.find(splits)
    monkeypatch.setattr(duplicates, "_CHUNK_BYTES", 20)
    parts = duplicates.find(splits)
    assert torch.equal(whole.train, parts.train) and torch.equal(whole.test, parts.test)


@settings(max_examples=50, derandomize=True)
@given(
    st.lists(st.integers(0, 9), min_size=2, max_size=30),
    st.lists(st.integers(0, 12), min_size=1, max_size=20),
)
def test_what_is_found_equals_a_search_with_a_dictionary(train: list[int], test: list[int]) -> None:
    splits = splits_of(images(train), images(test), labels(len(train)), labels(len(test)))
    first: dict[bytes, int] = {}
    repeats, leaks = [], []
    for i, image in enumerate(splits.train.x):
        key = hashlib.sha256(image.numpy().tobytes()).digest()
        if first.setdefault(key, i) != i:
            repeats.append([i, first[key]])
    for i, image in enumerate(splits.test.x):
        key = hashlib.sha256(image.numpy().tobytes()).digest()
        if key in first:
            leaks.append([i, first[key]])
    found = duplicates.find(splits)
    assert (found.train.tolist(), found.test.tolist()) == (repeats, leaks)


def test_messages_say_how_many_which_and_what_to_do() -> None:
    train, test = images([1, 1, 1, 1, 1, 2]), images([3, 2])
    first, second = duplicates.messages(splits_of(train, test, labels(6), torch.tensor([0, 0])))
    assert "4 of 6 training images repeat an earlier one (1 is 0, 2 is 0, 3 is 0, ...)" in first
    assert "2 of them with another label. Each costs a label" in first
    assert "1 of 2 test images are training images too (1 is training image 5)" in second
    assert "1 of them with another label. The test accuracy is flattered" in second


def test_nothing_is_said_where_all_images_differ() -> None:
    assert duplicates.messages(splits_of(images([1, 2]), images([3]), labels(2), labels(1))) == []


def test_more_images_than_are_searched_are_mentioned() -> None:
    splits = splits_of(images([1, 1]), images([1]), labels(2), labels(1))
    [message] = duplicates.messages(splits, largest=17)
    assert "searched for duplicates" in message and "find(splits)" in message


@pytest.mark.skipif(not MNIST.exists(), reason="MNIST is not there")
def test_mnist_holds_no_image_twice() -> None:
    arrays = np.load(MNIST, allow_pickle=False)
    train, test = (
        (torch.from_numpy(arrays[f"x_{part}"])[..., None], torch.from_numpy(arrays[f"y_{part}"]))
        for part in ("train", "test")
    )
    splits = make_splits((train[0], train[1].long()), (test[0], test[1].long()), DIGITS, flip=False)
    assert sum(duplicates.find(splits).counts().values()) == 0

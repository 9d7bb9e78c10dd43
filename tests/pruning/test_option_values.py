"""Which values an option of pruning takes, at their bounds."""

import math
from collections.abc import Callable

import numpy as np
import pytest

from alprune.errors import PruneError
from alprune.pruning import Limits
from alprune.pruning.option_values import check_count, check_flag, check_number, plain


@pytest.mark.parametrize(("value", "least"), [(0, 0), (3, 3), (7, 2)])
def test_whole_numbers_from_the_least_on_are_counts(value: int, least: int) -> None:
    check_count("rounds", value, least)


def test_numbers_from_zero_on_are_numbers_and_zero_is_none_where_it_must_be_more() -> None:
    check_number("share", 0)
    check_number("share", 1e-9, positive=True)


def test_numbers_of_numpy_become_pythons() -> None:
    limits = Limits(np.int64(3), layer_floors={"a": np.int32(2)}, local=np.bool_(True))
    assert limits == Limits(3, layer_floors={"a": 2}, local=True)
    assert type(limits.min_channels) is type(limits.layer_floors["a"]) is int
    assert [plain(value) for value in (np.float32(0.5), "x", None)] == [0.5, "x", None]


@pytest.mark.parametrize(
    ("check", "message"),
    [
        (lambda: check_count("n", 1, 2), "n must be at least 2, got 1"),
        (lambda: check_count("n", -1), "n must be at least 0, got -1"),
        (lambda: check_count("n", True), "n must be a whole number, at least 0; got True"),
        (lambda: check_count("n", 2.0, 1), "n must be a whole number, at least 1; got 2.0"),
        (lambda: check_number("x", -0.1), "x must be at least 0, got -0.1"),
        (lambda: check_number("x", 0.0, positive=True), "x must be more than 0, got 0"),
        (lambda: check_number("x", True), "x must be a number, at least 0; got True"),
        (lambda: check_number("x", "1"), "x must be a number, at least 0; got '1'"),
        (lambda: check_number("x", math.inf), "x must be a number, at least 0; got inf"),
        (lambda: check_number("x", math.nan), "x must be a number, at least 0; got nan"),
        (lambda: check_flag("f", 1), "f must be True or False, got 1"),
    ],
)
def test_other_values_are_refused_with_what_is_allowed(
    check: Callable[[], None], message: str
) -> None:
    with pytest.raises(PruneError) as refused:
        check()
    assert str(refused.value) == f"{message}."

"""Nodes that stand for several channels at once, and what a pin of one of them holds."""

import torch

from alprune.pruning.graph.labels import PINNED
from alprune.pruning.graph.partition import Partition

PRODUCT = (torch.tensor([3]), torch.tensor([[1], [2]]))  # 3 stays where 1 and 2 do


def partition(pinned: dict[int, str]) -> Partition:
    return Partition(torch.arange(5), {PINNED: "always"} | pinned, [PRODUCT])


def held(pinned: dict[int, str]) -> dict[int, str]:
    return {node: why for node, why in partition(pinned).pinned.items() if node != PINNED}


def test_what_always_stays_holds_all_of_its_parts() -> None:
    assert held({3: "why"}) == {1: "why", 2: "why", 3: "why"}
    assert held({3: "why", 1: "own"}) == {1: "own", 2: "why", 3: "why"}


def test_it_stays_always_where_all_of_its_parts_do_and_not_before() -> None:
    assert held({1: "own"}) == {1: "own"}
    assert held({1: "own", 2: "other"}) == {1: "own", 2: "other", 3: "own"}


def test_a_pin_that_comes_later_holds_the_same() -> None:
    found = partition({1: "own"})
    found.pin(torch.tensor([2]), "late")
    assert found.pinned == {PINNED: "always", 1: "own", 2: "late", 3: "own"}

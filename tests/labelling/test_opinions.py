"""How far two people who answered the same images agree."""

import pytest

from alprune.labelling.opinions import Opinions


def compared(*pairs):
    opinions = Opinions()
    for number, (first, second) in enumerate(pairs):
        opinions.add(str(number), "anna", first)
        opinions.add(str(number), "ben", second)
    return opinions


def test_agreement_and_kappa_are_those_of_a_hand_worked_table():
    # 20 both a, 5 a and b, 10 b and a, 15 both b: share 0.7, by chance 0.5, kappa 0.4.
    pairs = [("a", "a")] * 20 + [("a", "b")] * 5 + [("b", "a")] * 10 + [("b", "b")] * 15
    found = compared(*pairs).agreement()
    assert (found.images, found.agreed, found.share, found.unsettled) == (50, 35, 0.7, 15)
    assert found.kappa == pytest.approx(0.4)
    assert str(found) == "70% of 50 images that two people answered, kappa 0.40; 15 to review"


def test_kappa_is_not_defined_where_all_answers_are_the_same():
    found = compared(("a", "a"), ("a", "a")).agreement()
    assert (found.share, found.kappa) == (1.0, None)
    assert Opinions().agreement() is None


def test_a_skip_counts_as_an_answer():
    found = compared((None, "a"), (None, None)).agreement()
    assert (found.agreed, found.unsettled) == (1, 1)


def test_only_the_first_two_people_are_compared_and_nobody_without_a_name():
    opinions = compared(("a", "b"))
    opinions.add("0", "carl", "b")
    opinions.add("1", "", "a")
    opinions.add("1", "anna", "b")
    assert opinions.agreement().images == 1 and opinions.agreement().agreed == 0


def test_a_disagreement_ends_when_it_is_settled_corrected_or_withdrawn():
    opinions = compared(("a", "b"), ("a", "b"), ("a", "b"), ("a", "b"))
    assert list(opinions.unsettled) == ["0", "1", "2", "3"]
    opinions.settle("0")
    opinions.add("1", "ben", "a")
    opinions.withdraw("2", "anna")
    assert list(opinions.unsettled) == ["3"]
    found = opinions.agreement()
    assert (found.images, found.agreed, found.unsettled) == (3, 1, 1)  # settling hides nothing
    assert sorted(content for content, _ in opinions.disagreements()) == ["0", "3"]


def test_classes_that_are_merged_agree():
    opinions = compared(("a", "b"), ("c", "a"))
    opinions.rename("b", "a")
    assert list(opinions.unsettled) == ["1"] and opinions.agreement().agreed == 1


def test_an_image_that_is_answered_again_is_the_latest_of_its_person():
    opinions = compared(("a", "a"), ("a", "a"), ("a", "a"))
    opinions.add("0", "anna", "b")
    assert [*opinions.by["anna"]] == ["1", "2", "0"] and [*opinions.by["ben"]] == ["0", "1", "2"]

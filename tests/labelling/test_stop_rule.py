"""When labelling says that its stop rule is met, and how it continues."""

from dataclasses import replace

import photos
import pytest

from alprune.labelling import open_asking
from alprune.labelling.stop_rule import progress_of, unmeasured, why_stop
from alprune.labelling.web.queue import LabelQueue
from alprune.loop.config import RunConfig
from alprune.loop.defaults import resolve_labelling


@pytest.fixture
def config(tmp_path):
    return resolve_labelling(RunConfig(dataset=f"folder:{tmp_path}", model="lenet-5"))


def held(*accuracies, **more):
    return measured(*((share, 100) for share in accuracies), hold_out=100, **more)


def measured(*rounds, hold_out, **more):
    found = [{"held_out_accuracy": {"accuracy": share, "of": of}} for share, of in rounds]
    return progress_of([*found[:-1], found[-1] | more], hold_out)


@pytest.mark.parametrize(
    ("limits", "labelled", "said"),
    [
        ({}, 10_000, ""),
        ({"stop_labels": 200}, 199, ""),
        ({"stop_labels": 200}, 200, "200 images are labelled (--stop-labels 200)"),
        ({"stop_accuracy": 0.81}, 0, ""),
        ({"stop_accuracy": 0.8}, 0, "the accuracy is 80.0% (--stop-accuracy 0.8)"),
        ({"stop_plateau": 2}, 0, ""),
        (
            {"stop_plateau": 1},
            0,
            "1 round brought no better accuracy than 82.0% (--stop-plateau 1)",
        ),
        ({"stop_uncertainty": 0.2}, 0, ""),
        (
            {"stop_uncertainty": 0.3},
            0,
            "the mean entropy of the images without a label is 0.25 nats (--stop-uncertainty 0.3)",
        ),
    ],
)
def test_a_rule_says_that_it_is_met_and_why(config, limits, labelled, said):
    progress = held(0.7, 0.82, 0.8, uncertainty=0.25)
    assert why_stop(replace(config, **limits), progress, labelled) == said


def test_test_images_count_more_than_held_out_ones(config):
    rule = replace(config, stop_accuracy=0.8)
    assert why_stop(rule, held(0.9, test_accuracy=0.5), 0) == ""
    assert "85.0%" in why_stop(rule, held(0.1, test_accuracy=0.85), 0)


def test_a_rule_that_nothing_measures_says_so(config):
    assert "--hold-out" in unmeasured(replace(config, stop_plateau=3), progress_of([{}]))
    assert unmeasured(replace(config, stop_plateau=3), held(0.5)) == ""
    assert unmeasured(replace(config, stop_labels=3), progress_of([{}])) == ""
    few = measured((1.0, 12), hold_out=100)
    said = unmeasured(replace(config, stop_plateau=3, hold_out=100), few, 12)
    assert said.endswith("12 held-out images have labels, and their accuracy counts from 50 on.")


def test_the_accuracy_on_a_few_held_out_images_ends_nothing(config):
    rule = replace(config, stop_accuracy=0.9, stop_plateau=3, hold_out=100)
    early = [(1.0, 5), (1.0, 10), *[(0.7, of) for of in (20, 30, 40)]]
    assert why_stop(rule, measured(*early, hold_out=100), 0) == ""
    grown = [*early, (0.8, 50), *[(0.75, of) for of in (60, 70, 100, 100, 100)]]
    assert why_stop(rule, measured(*grown, hold_out=100), 0) == ""  # always of other images
    level = measured(*grown, (0.7, 100), hold_out=100)
    assert "better accuracy than 75.0%" in why_stop(rule, level, 0)
    assert "90.0%" in why_stop(rule, measured((0.9, 50), hold_out=100), 0)
    assert "90.0%" in why_stop(rule, measured((0.9, 20), hold_out=20), 0)
    assert why_stop(rule, measured((1.0, 8), hold_out=0), 0) == ""  # held out before it was 0


@pytest.fixture
def begin(tmp_path, monkeypatch):
    monkeypatch.setenv("ALPRUNE_CACHE", str(tmp_path / "cache"))
    root = photos.make(tmp_path / "photos")

    def begin(**changes):
        options = photos.options(root, epochs=1.0, initial_epochs=1.0, **changes)
        return open_asking(tmp_path / "run", classes=photos.NAMES, **options)

    return begin


def tell_truth(asking, asked):
    asking.tell({query.path: photos.truth(query.path) for query in asked})


def test_ask_stops_at_the_number_of_labels_and_continues_regardless(begin):
    with begin(stop_labels=9) as asking:
        tell_truth(asking, asking.ask())
        second = asking.ask()
        assert len(second) == 3 and second.stop == ""  # no more than the rule allows
        tell_truth(asking, second)
        third = asking.ask()
        assert len(third) == 0 and third.stop.startswith("9 images are labelled")
        assert third.learnt["guesses"]["of"] == 3  # it learns from the last labels all the same
        more = asking.ask(regardless=True)
        assert len(more) == 6 and more.stop == third.stop
    with begin(stop_labels=20) as asking:  # the limit may be raised at any time
        tell_truth(asking, asking.left())
        assert len(asking.ask()) == 5


def test_the_uncertainty_of_a_round_is_compared_with_the_rule(begin):
    with begin(stop_uncertainty=100.0) as asking:
        tell_truth(asking, asking.ask())
        asked = asking.ask()
        assert len(asked) == 0 and "nats" in asked.stop
        assert 0 < asking.journal.measured[-1]["learnt"]["uncertainty"] < 1.2


def test_the_page_stops_and_continues_regardless(begin):
    with begin(stop_labels=2) as asking:
        queue = LabelQueue(asking)
        prepared = asking.prepare()
        queue.put(asking.open_round(prepared))
        queue.stock(prepared)
        queue.answer({0: "dark"})
        assert not queue.state()["stopped"]
        queue.answer({1: "light"})
        state = queue.state()
        assert state["stopped"] and state["image"] is None
        assert state["why_stop"].startswith("2 images are labelled")
        assert state["past"] == [1, 0]  # answers can still be corrected
        queue.regardless = True
        assert queue.state()["image"]["number"] not in (0, 1)

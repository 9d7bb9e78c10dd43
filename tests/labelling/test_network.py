"""The learner between two rounds, when the classes have changed."""

from dataclasses import replace

import photos
import pytest
import torch

from alprune.labelling import open_asking
from alprune.labelling.network import open_network
from alprune.loop.checkpoint import load_checkpoint


@pytest.fixture
def learnt(tmp_path, monkeypatch):
    """Return options, images, labelled indices and the state after one fit."""
    monkeypatch.setenv("ALPRUNE_CACHE", str(tmp_path / "cache"))
    root = photos.make(tmp_path / "photos")
    options = photos.options(root, epochs=2.0, initial_epochs=2.0, query_size=12)
    with open_asking(tmp_path / "run", classes=photos.NAMES, **options) as asking:
        asking.tell({query.path: photos.truth(query.path) for query in asking.ask()})
        images = asking.prepare().images
        return asking.config, images.train, images.labelled, load_checkpoint(tmp_path / "run")


def head_of(network):
    """Return the weights of the last layer, a row per class."""
    return [p for p in network.learner.averaged.parameters() if p.ndim == 2][-1].detach()


def opened(learnt, classes, renames=()):
    config, train, labelled, state = learnt
    train = replace(train, classes=classes, y=train.y.clamp(max=len(classes) - 1))
    return open_network(config, train, labelled, state, 0, renames)


def test_outputs_follow_their_classes_when_the_order_changes(learnt):
    rows = head_of(opened(learnt, photos.NAMES))
    found = opened(learnt, ("striped", "dark", "light"))
    assert torch.equal(head_of(found), rows[[2, 0, 1]])
    assert found.added == ()


def test_a_renamed_class_keeps_what_was_learnt_of_it(learnt):
    rows = head_of(opened(learnt, photos.NAMES))
    found = opened(learnt, ("black", "light", "striped"), [("dark", "black")])
    assert torch.equal(head_of(found), rows)


def test_a_class_that_takes_a_freed_name_is_another_one(learnt):
    config, train, labelled, state = learnt
    rows = head_of(opened(learnt, photos.NAMES))
    found = opened(learnt, ("black", "light", "striped", "dark"), [("dark", "black")])
    assert torch.equal(head_of(found)[:3], rows) and found.added == ("dark",)
    later = config, train, labelled, state | {"renames": 1}  # the state has both
    found = opened(later, photos.NAMES, [("dark", "black")])
    assert torch.equal(head_of(found), rows) and found.added == ()


def test_of_merged_classes_one_output_stays(learnt):
    rows = head_of(opened(learnt, photos.NAMES))
    found = opened(learnt, ("dark", "striped"), [("light", "dark")])
    assert torch.equal(head_of(found), rows[[0, 2]])


def test_a_new_class_begins_at_zero_in_the_place_of_a_removed_one(learnt):
    rows = head_of(opened(learnt, photos.NAMES))
    found = opened(learnt, ("dark", "light", "new"))
    assert torch.equal(head_of(found)[:2], rows[:2])
    assert not head_of(found)[2].any()
    assert found.added == ("new",)

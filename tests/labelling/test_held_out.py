"""Which answers are kept from training: those about images that were drawn, and no others."""

import shutil
from dataclasses import replace

import photos
import pytest

from alprune.labelling import open_asking
from alprune.labelling.images import counts
from alprune.labelling.insight import Insight
from alprune.labelling.web.leases import Client
from alprune.labelling.web.overview import Overview
from alprune.labelling.web.queue import LabelQueue


@pytest.fixture
def asking(tmp_path, monkeypatch):
    monkeypatch.setenv("ALPRUNE_CACHE", str(tmp_path / "cache"))
    root = photos.make(tmp_path / "photos")
    options = photos.options(root, query_size=15, hold_out=20)
    with open_asking(tmp_path / "run", classes=photos.NAMES, **options) as asking:
        asking.ask()
        yield asking


@pytest.fixture
def queue(asking):
    queue = LabelQueue(asking)
    queue.put(asking.left(hand_out=False))
    return queue


def drawn(asking):
    return [query for query in asking.journal.pending if query.why == "random"]


def held(asking):
    return {answer.path for answer in asking.journal.answers.values() if answer.held}


def test_a_drawn_image_is_held_out_if_it_is_answered_by_itself(asking, queue):
    one, two, three = drawn(asking)
    queue.answer({queue.number(one): "dark"})
    queue.answer({queue.number(query): "dark" for query in (two, three)})
    assert held(asking) == {one.path}


def test_a_drawn_image_is_held_out_after_a_skip_and_after_an_undo(asking, queue):
    one, two, _ = drawn(asking)
    queue.answer({queue.number(one): "dark"})
    queue.undo()
    queue.answer({queue.number(one): "light"})
    queue.answer({queue.number(two): None})
    later = LabelQueue(asking)
    later.answer({later.state()["past"][0]: "dark"}, review=True)
    assert held(asking) == {one.path, two.path}


def test_a_drawn_image_is_held_out_by_the_second_answer_once_the_skip_is_taken_back(asking, queue):
    one = drawn(asking)[0]
    anna, ben = Client("s1", "anna", "w1"), Client("s2", "ben", "w2")
    queue.answer({queue.number(one): None}, anna)
    queue.answer({queue.number(one): "dark"}, ben)
    queue.undo(anna)
    assert asking.labels == {one.path: "dark"} and held(asking) == {one.path}


def test_the_grid_and_the_map_leave_drawn_images_out(asking, queue):
    asked = asking.journal.pending
    overview = Overview(asking, queue)
    overview.update(
        Insight(
            guessed=[replace(query, guess="dark", probability=0.9) for query in asked],
            places={query.content: (0.5, 0.5) for query in asked},
            paths={query.content: query.path for query in asked},
        )
    )
    others = {query.path for query in asked if query.why != "random"}
    assert {image["path"] for image in overview.grid("dark")["images"]} == others
    numbers = [queue.number(query) for query in asked]
    assert {image["path"] for image in overview.selected(numbers)["images"]} == others
    assert len(overview.map()["points"]) == len(others)
    first = queue.query(0)
    queue.stock(asking.prepare(), {first.content: drawn(asking)})
    assert queue.described(0)["also"] == []


def test_what_was_drawn_in_an_earlier_round_is_learnt_from(asking, queue):
    early = drawn(asking)
    asking.tell({q.path: photos.truth(q.path) for q in asking.journal.open if q not in early})
    queue.put(asking.ask())
    one, two = [q for q in early if q.content not in asking.journal.drawn][:2]
    asking.tell({one.path: "dark"})
    queue.answer({queue.number(two): "dark"})
    assert not held(asking)


def test_a_correction_leaves_an_answer_held_out_or_not(asking):
    asked = asking.journal.open
    asking.tell({query.path: "dark" for query in asked})
    before = held(asking)
    asking.ask()
    asking.tell({query.path: "light" for query in asked}, replace=True)
    assert held(asking) == before == {query.path for query in asked if query.why == "random"}


def of(images, indices):
    return [images.files.content(index) for index in indices.tolist()]


def test_a_held_out_photo_that_is_sorted_into_its_class_folder_stays_held_out(asking):
    asking.tell({query.path: photos.truth(query.path) for query in asking.journal.open})
    before = {a.content for a in asking.journal.answers.values() if a.held}
    for path in asking.labels:
        folder = asking.root / photos.truth(path)
        folder.mkdir(exist_ok=True)
        (asking.root / path).rename(folder / path.rpartition("/")[2])
    images = asking.prepare().images
    assert set(of(images, images.held)) == before and len(images.labelled) == 12
    assert not asking.journal.held_of_folder  # nothing that people answered is drawn once more


def test_copies_of_a_held_out_photo_count_once(asking):
    asking.tell({query.path: photos.truth(query.path) for query in asking.journal.open})
    for path in asking.labels:
        shutil.copy(asking.root / path, asking.root / f"{path}-copy.png")
    images = asking.prepare().images
    assert len(images.held) == 3 and len(images.labelled) == 24
    assert not set(of(images, images.held)) & set(of(images, images.labelled))


def test_a_photo_of_which_a_copy_is_in_a_class_folder_is_labelled(asking):
    first, *_, last = sorted((asking.root / "unlabelled").iterdir())
    for folder, path in (("dark", first), ("wren", last)):  # before and behind "unlabelled"
        (asking.root / folder).mkdir()
        for name in ("a.png", "b.png"):
            shutil.copy(path, asking.root / folder / name)
    images = asking.prepare().images
    labelled = {*of(images, images.labelled), *of(images, images.held)}
    assert len(labelled) == counts(images)["labelled"] == images.in_folders == 2
    assert not labelled & {*of(images, images.open), *of(images, images.drawable)}
    assert len(images.open) == len(images.train) - 6


def test_what_was_ever_learnt_from_is_not_drawn(asking):
    one, two, *_ = (query for query in asking.journal.open if query.why != "random")
    asking.tell({one.path: "dark", two.path: "light"})
    asking.journal.tell([], withdrawn=[one.content])
    asking.tell({two.path: None}, replace=True)
    images = asking.prepare().images
    assert one.content in of(images, images.open)
    assert not {one.content, two.content} & set(of(images, images.drawable))


@pytest.fixture
def taught(tmp_path, monkeypatch):
    """Train a network on photos in class folders; return their folder."""
    monkeypatch.setenv("ALPRUNE_CACHE", str(tmp_path / "cache"))
    root = photos.make(tmp_path / "photos")
    for name in ("dark", "light"):
        photos.fill(root / name, name, range(20, 28))
    with open_asking(tmp_path / "run", **photos.options(root)) as asking:
        asking.ask()
    return root


def test_no_photo_that_a_network_was_trained_on_is_held_out_later(tmp_path, taught):
    with open_asking(tmp_path / "run", hold_out=8) as asking:
        known = asking.prepare().images
        assert not len(known.held)
        photos.fill(taught / "dark", "dark", range(30, 38))
        images = asking.prepare().images
        assert len(images.held) == 2
        assert not set(of(images, images.held)) & set(of(known, known.labelled))


def test_what_a_folder_taught_a_network_is_not_drawn_once_it_is_sorted_anew(tmp_path, taught):
    (taught / "dark" / "p0-020.png").rename(taught / "unlabelled" / "moved.png")
    with open_asking(tmp_path / "run", hold_out=8) as asking:
        content = asking.identify("unlabelled/moved.png")
        images = asking.prepare().images
        assert content in of(images, images.open) and content not in of(images, images.drawable)


def test_a_drawn_image_is_asked_about_without_a_guess(asking, queue):
    asking.tell({query.path: photos.truth(query.path) for query in asking.journal.open})
    queue.put(asking.ask())
    for query in asking.journal.open:
        shown = queue.described(queue.number(query))["guess"]
        assert query.guess and (shown is None) == (query.why == "random")

"""Which folders hold colour photographs, and what labelling does by default with them."""

import numpy as np
import pytest
from PIL import Image

from alprune import RunConfig, open_asking
from alprune.errors import DataError
from alprune.labelling.photographs import are_photographs
from alprune.loop.defaults import FROM_SCRATCH


def of_folder(path):
    return are_photographs(RunConfig(dataset=f"folder:{path}"))


def write(folder, count, side=64, kind="colour"):
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for number in range(count):
        base = rng.integers(0, 256, 3 if kind == "colour" else 1)
        noise = rng.integers(0, 30, (side, side, 1))
        pixels = np.broadcast_to(np.clip(base + noise, 0, 255), (side, side, 3))
        image = Image.fromarray(pixels.astype(np.uint8))
        (image.convert("L") if kind == "grey" else image).save(folder / f"{kind}{number}.png")


@pytest.mark.parametrize(
    ("kind", "side", "expected"),
    [
        ("colour", 64, True),
        ("colour", 32, True),
        ("colour", 20, False),
        ("grey", 64, False),
        ("grey in three channels", 64, False),
    ],
)
def test_colour_and_size_decide(tmp_path, kind, side, expected):
    write(tmp_path / "unlabelled", 6, side, kind)
    assert of_folder(tmp_path) is expected


def test_most_of_the_images_decide_and_damaged_files_do_not_count(tmp_path):
    write(tmp_path / "unlabelled", 5)
    write(tmp_path / "unlabelled", 3, kind="grey")
    for number in range(8):
        (tmp_path / "unlabelled" / f"damaged{number}.png").write_bytes(b"\x89PNG nothing")
    assert of_folder(tmp_path)


def test_the_first_folder_does_not_decide_for_all(tmp_path):
    write(tmp_path / "unlabelled" / "cam01-night", 40, kind="grey")
    write(tmp_path / "unlabelled" / "cam02", 50)
    assert of_folder(tmp_path)


def test_images_need_no_suffix(tmp_path):
    write(tmp_path / "unlabelled", 3)
    for path in (tmp_path / "unlabelled").iterdir():
        path.rename(path.with_suffix(""))
    assert of_folder(tmp_path)


@pytest.mark.parametrize("at", ["photos", "phtos", "empty", "damaged"])
def test_a_mistyped_folder_of_images_decides_nothing_and_leaves_no_folder(tmp_path, at):
    write(tmp_path / "photos" / "unlabelled", 3)
    (tmp_path / "empty").mkdir()
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "0.png").write_bytes(b"nothing")
    if at != "photos":
        with pytest.raises(DataError, match="there is no|cannot be read"):
            open_asking(tmp_path / "asked", dataset=f"folder:{tmp_path / at}")
        assert not (tmp_path / "asked").exists()
    with open_asking(tmp_path / "asked", dataset=f"folder:{tmp_path / 'photos'}") as asking:
        assert asking.config.learner == "frozen"
    with pytest.raises(DataError, match=r"no .*phtos'; .*asked stays as it was"):
        open_asking(tmp_path / "asked", dataset=f"folder:{tmp_path / 'phtos'}")
    with open_asking(tmp_path / "asked") as asking:
        assert asking.config.dataset.endswith("photos")


def notes_of(tmp_path, begin=True, **options):
    from alprune.loop.observers import Observer

    class Hears(Observer):
        notes: list = []

        def event(self, name, fields):
            if name == "note":
                self.notes.append(fields["text"])

    hears = Hears()
    hears.notes = []
    if begin:
        options["dataset"] = f"folder:{tmp_path / 'photos'}"
    with open_asking(tmp_path / "asked", observer=hears, **options) as asking:
        return asking.config, hears.notes


def test_photographs_get_a_frozen_learner_and_a_line_that_says_how_not_to(tmp_path):
    write(tmp_path / "photos" / "unlabelled", 6)
    config, notes = notes_of(tmp_path)
    assert config.learner == "frozen" and config.pretrained == "imagenet"
    [note] = notes
    assert "--learner trained" in note
    config, notes = notes_of(tmp_path, begin=False)
    assert config.learner == "frozen" and not notes


@pytest.mark.parametrize(
    ("chosen", "model", "method"),
    [
        ({"learner": "trained"}, "patches", "dense"),
        ({"learner": "trained", "label_smoothing": 0.0}, "patches", "dense"),
        ({"model": "resnet20"}, "resnet20", "3sp-ca"),
        ({"method": "3sp"}, "vgg19", "3sp"),
        ({"flops_reduction": 0.5}, "vgg19", "3sp-ca"),
        ({"learner": "trained", "smoothing": 0.02}, "vgg19", "3sp-ca"),
    ],
)
def test_who_chooses_a_network_gets_it(tmp_path, chosen, model, method):
    write(tmp_path / "photos" / "unlabelled", 6)
    config, notes = notes_of(tmp_path, **chosen)
    assert config.learner == "trained" and not notes
    assert (config.model, config.method) == (model, method)
    smoothing = FROM_SCRATCH["label_smoothing"] if model == "patches" else 0.0
    assert config.label_smoothing == chosen.get("label_smoothing", smoothing)


def test_other_images_are_learnt_from_scratch(tmp_path):
    write(tmp_path / "photos" / "unlabelled", 6, kind="grey")
    config, [note] = notes_of(tmp_path)
    assert config.learner == "trained" and "--learner frozen" in note
    assert (config.model, config.method) == ("patches", "dense")
    assert (config.warmup_batches, config.after_pruning) == (10, "inherit")

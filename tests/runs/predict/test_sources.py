import os
import warnings

import numpy as np
import pytest
import torch
from made_photos import write_photo, write_photos
from PIL import Image

from alprune.data import load
from alprune.errors import DataError
from alprune.runs.predict import files
from alprune.runs.predict.files import BATCH, sample_files
from alprune.runs.predict.sources import array_source, open_source
from alprune.training.input_spec import Inputs

COLOUR = Inputs(("blue", "red"), (3, 6, 6), "uint8", (0.5,) * 3, (0.3,) * 3)
GREY = Inputs(("blue", "red"), (1, 6, 6), "uint8", (0.5,), (0.3,))
FLOATS = Inputs(("blue", "red"), (3, 6, 6), "float32", (0.5,) * 3, (0.3,) * 3)


def entries_of(source, begin=0):
    return [entry for batch in source.batches(begin) for entry in batch.entries]


def images_of(source, begin=0):
    return torch.cat([batch.images for batch in source.batches(begin)])


def test_a_folder_is_read_in_the_order_of_its_paths_with_its_labels(tmp_path):
    for name in ("b/2.png", "b.png", "a/z/1.png", "red/9.png", "train/blue/1.png", "red/x/0.png"):
        write_photo(tmp_path / name, "red", 1)
    (tmp_path / ".hidden.png").write_bytes(b"")
    source = open_source([f"folder:{tmp_path}"], COLOUR)
    found = entries_of(source)
    shown = [entry.shown for entry in found]
    assert shown == sorted(shown, key=lambda path: path.split("/"))
    assert len(shown) == source.total == 6
    labels = {entry.shown: entry.label for entry in found}
    assert labels["red/9.png"] == labels["red/x/0.png"] == "red"
    assert labels["train/blue/1.png"] == "blue"
    assert labels["a/z/1.png"] is labels["b.png"] is None


def test_it_can_begin_anywhere(tmp_path):
    write_photos(tmp_path, train=50, test=20)
    source = open_source([tmp_path], COLOUR)
    everything, images = entries_of(source), images_of(source)
    assert source.total == len(everything) == len(images) == 140 > 2 * BATCH
    for begin in (1, BATCH, 100, 140):
        assert entries_of(source, begin) == everything[begin:]
    assert torch.equal(images_of(source, 100), images[100:])


def test_images_are_what_a_run_on_the_folder_reads(tmp_path):
    write_photos(tmp_path, train=3, test=2)
    splits = load(f"folder:{tmp_path}", size=(6, 6))
    wanted = torch.cat([splits.test.x, splits.train.x])
    assert torch.equal(images_of(open_source([tmp_path], COLOUR)), wanted)


def test_what_was_decoded_before_is_not_decoded_again(tmp_path, monkeypatch):
    root = write_photos(tmp_path / "photos", train=50, test=20)
    streamed = {
        entry.shown: image
        for batch in open_source([root], COLOUR).batches(0)
        for entry, image in zip(batch.entries, batch.images, strict=True)
    }
    load(f"folder:{root}", size=(6, 6), cache=tmp_path / "cache")
    with monkeypatch.context() as patched:
        patched.setattr(files, "Decoder", None)
        source = open_source([f"folder:{root}"], COLOUR, cache=tmp_path / "cache")
        found, images = entries_of(source), images_of(source)
        assert entries_of(source, 100) == found[100:]
    assert source.total == len(found) == 140
    assert {entry.label for entry in found} == {"red", "blue"}
    for entry, image in zip(found, images, strict=True):
        assert torch.equal(image, streamed[entry.shown])
    grey = images_of(open_source([root], GREY, cache=tmp_path / "cache"))
    assert grey.shape == (140, 6, 6, 1)

    write_photo(root / "train" / "red" / "new.png", "red", 7)
    (root / "train" / "red" / "broken.png").write_bytes(b"nothing")
    (root / "notes").write_text("nothing")
    source = open_source([root], COLOUR, cache=tmp_path / "cache")
    found = entries_of(source)
    assert source.total == len(found) == 143 and len(images_of(source)) == 141
    errors = {entry.shown: entry.error for entry in found if entry.error}
    assert errors == dict.fromkeys(["notes", "train/red/broken.png"], "an image in no known format")


def test_grey_learners_get_luminance_and_colour_learners_get_three_channels(tmp_path):
    write_photo(tmp_path / "a.png", "red", 1, side=6)
    grey = Image.fromarray(np.arange(36, dtype=np.uint8).reshape(6, 6))
    grey.save(tmp_path / "b.png")
    first, second = images_of(open_source([tmp_path], GREY))
    with Image.open(tmp_path / "a.png") as image:
        assert np.array_equal(first[..., 0], np.asarray(image.convert("L")))
    assert np.array_equal(second[..., 0], np.asarray(grey))
    both = images_of(open_source([tmp_path], COLOUR))
    assert both.shape == (2, 6, 6, 3) and bool((both[1] == second).all())


def test_what_cannot_be_read_is_noted_and_the_rest_goes_on(tmp_path):
    write_photo(tmp_path / "a.png", "red", 1)
    (tmp_path / "b.png").write_bytes(b"no image")
    (tmp_path / "c.png").write_bytes((tmp_path / "a.png").read_bytes()[:200])
    os.symlink(tmp_path / "nowhere", tmp_path / "d.png")
    os.mkfifo(tmp_path / "e.png")
    write_photo(tmp_path / "f.png", "red", 2)
    source = open_source([tmp_path], COLOUR)
    found = entries_of(source)
    assert source.total == len(found) == 6
    assert [entry.error is None for entry in found] == [True, *[False] * 4, True]
    assert found[1].error == "an image in no known format"
    assert "pipe or a device" in found[4].error
    assert len(images_of(source)) == 2


def test_links_out_of_the_folder_are_read_only_on_demand_and_what_is_left_out_is_counted(tmp_path):
    write_photo(tmp_path / "secret.png", "red", 1)
    write_photo(tmp_path / "photos" / "a.png", "red", 2)
    os.symlink(tmp_path / "secret.png", tmp_path / "photos" / "b.png")
    os.symlink(tmp_path / "photos" / "a.png", tmp_path / "photos" / "c.png")
    os.symlink(tmp_path, tmp_path / "photos" / "round")
    write_photo(tmp_path / "photos" / ".hidden" / "a.png", "red", 3)
    source = open_source([tmp_path / "photos"], COLOUR)
    assert source.left_out == "1 hidden folder of images, 1 link to folders"
    first, second, third = entries_of(source)
    assert first.error is None and third.error is None
    assert "leads out of the folder" in second.error and "--follow-links" in second.error
    followed = entries_of(open_source([tmp_path / "photos"], COLOUR, follow_links=True))
    assert [entry.error for entry in followed] == [None] * 3


def test_names_that_are_no_text_are_escaped(tmp_path):
    write_photo(tmp_path / "a.png", "red", 1)
    os.rename(tmp_path / "a.png", os.fsencode(tmp_path) + b"/\xff.png")
    [entry] = entries_of(open_source([tmp_path], COLOUR))
    assert entry.shown == "\\xff.png" and entry.error is None


def test_files_and_folders_follow_one_another(tmp_path):
    write_photos(tmp_path / "p", train=2, test=1)
    write_photo(tmp_path / "one.png", "red", 5)
    source = open_source([str(tmp_path / "one.png"), f"folder:{tmp_path / 'p'}"], COLOUR)
    shown = [entry.shown for entry in entries_of(source)]
    assert shown[0] == str(tmp_path / "one.png")
    assert shown[1] == f"{tmp_path / 'p'}/test/blue/000.png" and len(shown) == source.total == 7
    assert [entry.shown for entry in entries_of(source, 3)] == shown[3:]


def test_arrays_in_a_file_with_labels(tmp_path):
    x = np.random.default_rng(0).integers(0, 255, (70, 12, 12, 3), dtype=np.uint8)
    np.savez(tmp_path / "a.npz", x=x, y=np.arange(70) % 3 - 1)
    source = open_source([f"npz:{tmp_path / 'a.npz'}"], COLOUR)
    found = entries_of(source)
    assert source.total == 70 and found[5].shown == "x[5]"
    assert [entry.label for entry in found[:3]] == [None, "blue", "red"]
    assert images_of(source).shape == (70, 6, 6, 3)
    np.savez(tmp_path / "b.npz", x_train=x[:9, :6, :6], x_test=x[:4, :6, :6])
    source = open_source([f"npz:{tmp_path / 'b.npz'}"], COLOUR)
    assert [entry.shown for entry in entries_of(source, 8)][:2] == ["x_train[8]", "x_test[0]"]
    assert np.array_equal(images_of(source)[:9], x[:9, :6, :6])
    np.savez(tmp_path / "c.npz", x=x[:4], y=[0, 1, 0, 1], classes=["red", "green"])
    source = open_source([f"npz:{tmp_path / 'c.npz'}"], COLOUR)
    assert [entry.label for entry in entries_of(source)] == ["red", None, "red", None]


def test_arrays_in_memory():
    x = torch.randint(256, (5, 6, 6, 3)).byte()
    assert torch.equal(images_of(array_source("image", x, COLOUR)), x)
    grey = torch.randint(256, (5, 6, 6)).byte()
    assert images_of(array_source("image", grey, COLOUR)).shape == (5, 6, 6, 3)
    with pytest.raises(DataError, match="takes uint8 images, 0 to 255; got torch.float32"):
        array_source("image", x.float(), COLOUR)
    with pytest.raises(DataError, match=r"takes images \(n, 6, 6, 3\)"):
        array_source("image", x.permute(0, 3, 1, 2), COLOUR)


def test_a_sample_is_spread_over_the_folder(tmp_path):
    write_photos(tmp_path, train=30, test=10)
    images = sample_files(tmp_path, COLOUR, 8, False)
    blue = images[..., 2].float().mean((1, 2)) > images[..., 0].float().mean((1, 2))
    assert len(images) == 8 and 3 <= int(blue.sum()) <= 5
    assert len(sample_files(tmp_path, COLOUR, 1000, False)) == 80


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["folder:nowhere"], "there is no folder 'nowhere'"),
        (["nowhere.jpg"], "there is no image or folder 'nowhere.jpg'"),
        (["npz:nowhere.npz"], "there is no file 'nowhere.npz'"),
        (["."], "there is no image in '.'"),
        (["npz:a.npz"], "holds none of x, x_train, x_test"),
        (["npz:b.npz"], "there is no image in 'b.npz'"),
        (["npz:c.npz"], "must be uint8"),
    ],
)
def test_what_is_not_there_is_told(tmp_path, monkeypatch, names, message):
    monkeypatch.chdir(tmp_path)
    if names != ["."]:
        np.savez("a.npz", images=np.zeros((2, 6, 6, 3), np.uint8))
        np.savez("b.npz", x=np.zeros((0, 6, 6, 3), np.uint8))
        np.savez("c.npz", x=np.zeros((2, 6, 6, 3), np.int64))
    with pytest.raises(DataError, match=message):
        open_source(names, COLOUR)


def test_files_are_no_images_for_a_learner_of_floating_point_values(tmp_path):
    write_photo(tmp_path / "a.png", "red", 1)
    with pytest.raises(DataError, match="floating-point values"):
        open_source([tmp_path], FLOATS)


def test_arrays_in_another_unit_than_the_training_images_are_warned_about():
    x = torch.rand(12, 6, 6, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        array_source("image", x, FLOATS)
        array_source("image", (x * 255).byte(), COLOUR)
    for wrong, inputs in ((x * 255, FLOATS), ((x > 0.5).byte(), COLOUR)):
        with pytest.warns(UserWarning, match="images of image .* in another unit"):
            array_source("image", wrong, inputs)


def test_what_systems_leave_behind_is_not_classified_and_counted(tmp_path):
    for name in ("red/0.png", "Red /1.png", "__MACOSX/2.png", "run/queries/3.png"):
        write_photo(tmp_path / name, "red", 1)
    for name in ("run/config.toml", "run/events.jsonl", "red/Thumbs.db", "red/IMG.MOV"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "predictions.csv").write_text("path,class\n")
    source = open_source([str(tmp_path)], COLOUR)
    assert {e.shown: e.label for e in entries_of(source)} == {
        "Red /1.png": "red",
        "red/0.png": "red",
    }
    for part in ("1 folder of alprune", "1 file of alprune", "1 video", "1 file of the system"):
        assert part in source.described()

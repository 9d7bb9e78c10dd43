import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from alprune.data import Splits, load, relabelled
from alprune.data.corruption import long_tail
from alprune.errors import DataError
from alprune.loop.config import RunConfig
from alprune.loop.setup import load_splits


def save(root: Path, *paths: str) -> None:
    """Write images of which each has another colour, and no two the same content."""
    for path in paths:
        colour = np.frombuffer(path.encode().rjust(48, b"."), np.uint8)[-48:].reshape(4, 4, 3)
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(colour).save(root / path)


def load_open(root: Path, **options: Any) -> Splits:
    return load(f"folder:{root}", size=(4, 4), incomplete=True, **options)


def test_images_in_class_folders_are_labelled_and_others_are_not(tmp_path: Path) -> None:
    save(tmp_path, "dog/1.png", "cat/1.png", "unlabelled/a/1.png", "unlabelled/0.png", "zebra.jpg")
    (tmp_path / "notes.txt").write_text("none of a class")
    (tmp_path / "eel").mkdir()
    splits = load_open(tmp_path)
    assert splits.train.classes == ("cat", "dog", "eel")
    assert splits.train.paths == (
        "cat/1.png",
        "dog/1.png",
        "unlabelled/0.png",
        "unlabelled/a/1.png",
        "zebra.jpg",
    )
    assert splits.train.y.tolist() == [0, 1, -1, -1, -1]
    assert len(splits.test) == 0 and splits.test.image_shape == (3, 4, 4)


def test_unlabelled_images_may_lie_beside_the_classes_to_train_on(tmp_path: Path) -> None:
    save(tmp_path, "train/cat/1.png", "train/unlabelled/1.png", "test/cat/2.png", "test/dog/2.png")
    splits = load_open(tmp_path)
    assert splits.train.paths == ("train/cat/1.png", "train/unlabelled/1.png")
    assert splits.train.classes == ("cat", "dog")
    assert splits.train.y.tolist() == [0, -1]
    assert splits.test.y.tolist() == [0, 1]


def test_a_folder_test_beside_class_folders_holds_test_images(tmp_path: Path) -> None:
    save(tmp_path, "cat/1.png", "unlabelled/1.png", "test/cat/2.png")
    splits = load_open(tmp_path)
    assert splits.train.paths == ("cat/1.png", "unlabelled/1.png")
    assert splits.test.paths == ("test/cat/2.png",)


def test_a_folder_of_nothing_but_images_has_no_classes_yet(tmp_path: Path) -> None:
    save(tmp_path, "1.png", "2.PNG")
    splits = load_open(tmp_path)
    assert splits.train.classes == ()
    assert splits.train.y.tolist() == [-1, -1]


def test_an_image_is_found_again_after_it_was_moved_or_others_came(tmp_path: Path) -> None:
    save(tmp_path, "cat/5.png", "unlabelled/5.png", "unlabelled/7.png")
    before = load_open(tmp_path).train.files
    assert before is not None
    names = [(path, before.content(i)) for i, path in enumerate(before.paths)]
    save(tmp_path, "cat/0.png", "unlabelled/6.png")
    (tmp_path / "dog").mkdir()
    (tmp_path / "unlabelled" / "7.png").rename(tmp_path / "dog" / "7.png")
    (tmp_path / "unlabelled" / "5.png").write_bytes((tmp_path / "cat" / "0.png").read_bytes())
    after = load_open(tmp_path).train.files
    assert after is not None
    found = [after.find(*name) for name in names]
    assert found[0] is not None and after.paths[found[0]] == "cat/5.png"
    assert found[1] is None and after.index("unlabelled/5.png") is not None
    assert found[2] is not None and after.paths[found[2]] == "dog/7.png"


def test_of_equal_images_the_one_at_the_path_is_found(tmp_path: Path) -> None:
    save(tmp_path, "unlabelled/b.png")
    for name in "ac":
        shutil.copy(tmp_path / "unlabelled" / "b.png", tmp_path / "unlabelled" / f"{name}.png")
    files = load_open(tmp_path).train.files
    assert files is not None
    assert files.find("unlabelled/b.png", files.content(1)) == 1
    assert files.find("unlabelled/gone.png", files.content(1)) == 0


def test_labels_told_make_a_data_set_with_new_classes(tmp_path: Path) -> None:
    save(tmp_path, "cat/1.png", "unlabelled/1.png", "unlabelled/2.png", "test/cat/2.png")
    splits = load_open(tmp_path)
    told = relabelled(splits, torch.tensor([1, 0, -1]), ("ant", "cat"))
    assert told.train.classes == told.test.classes == ("ant", "cat")
    assert told.train.y.tolist() == [1, 0, -1]
    assert told.test.y.tolist() == [1]
    assert told.digest != splits.digest
    assert relabelled(told, splits.train.y, ("cat",)).digest == splits.digest
    with pytest.raises(DataError, match="left out: .'cat'"):
        relabelled(splits, torch.tensor([0, 0, -1]), ("ant",))


def test_the_digest_follows_images_and_labels_and_not_their_paths(tmp_path: Path) -> None:
    save(tmp_path, "cat/1.png", "unlabelled/2.png")
    digest = load_open(tmp_path).digest
    (tmp_path / "cat" / "1.png").rename(tmp_path / "cat" / "3.png")
    assert load_open(tmp_path).digest == digest
    (tmp_path / "unlabelled" / "2.png").rename(tmp_path / "cat" / "4.png")
    assert load_open(tmp_path).digest != digest


def test_a_run_on_images_without_labels_is_told_to_ask(tmp_path: Path) -> None:
    save(tmp_path, "train/cat/1.png", "train/dog/1.png", "train/unlabelled/2.png")
    save(tmp_path, "test/cat/1.png", "test/dog/1.png")
    config = RunConfig(dataset=f"folder:{tmp_path}")
    with pytest.raises(DataError, match="^1 image in .*train' has no label.*alprune label"):
        load_splits(config)
    shutil.rmtree(tmp_path / "train" / "unlabelled")
    load_splits(config)
    flat = tmp_path / "train"
    with pytest.raises(DataError, match="no folder .*train/train'.*alprune label"):
        load_splits(RunConfig(dataset=f"folder:{flat}"))


def test_a_data_set_of_ones_own_without_labels_or_tests_is_refused_by_a_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    save(tmp_path, "cat/1.png", "dog/1.png", "unlabelled/2.png", "test/cat/1.png", "test/dog/2.png")
    splits = load_open(tmp_path)
    (tmp_path / "own_data.py").write_text("def make():\n    return SPLITS\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    import own_data  # type: ignore[import-not-found]

    own_data.SPLITS = splits
    with pytest.raises(DataError, match="1 of 3 training images .* no label.*alprune ask"):
        load("own_data:make")
    assert load("own_data:make", incomplete=True) is splits


def test_what_holds_no_image_or_tests_without_labels_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no image in .*unlabelled/"):
        load_open(tmp_path)
    with pytest.raises(DataError, match="there is no folder .*gone'"):
        load_open(tmp_path / "gone")
    save(tmp_path, "cat/1.png", "test/unlabelled/2.png")
    with pytest.raises(DataError, match="can test nothing"):
        load_open(tmp_path)


def test_thinned_images_keep_their_paths(tmp_path: Path) -> None:
    save(tmp_path, *(f"{name}/{i}.png" for name in ("cat", "dog") for i in range(4)))
    train = load_open(tmp_path).train
    thin = long_tail(train, 4, torch.Generator().manual_seed(0))
    assert thin.files is not None and train.files is not None and thin.paths is not None
    assert len(thin) == 5
    for index, path in enumerate(thin.paths):
        first = train.files.index(path)
        assert first is not None and torch.equal(thin.x[index], train.x[first])

"""Data sets of Hugging Face that are on this machine."""

import shutil
import sys

import made_sources
import numpy as np
import photos
import pytest

from alprune.data import LoadOptions, load, relabelled
from alprune.data.hugging_face import open_images
from alprune.data.image_cache.store import list_caches
from alprune.errors import DataError


@pytest.fixture(scope="module", autouse=True)
def hugging_face():
    """Import what takes seconds only where these tests are run."""
    global datasets
    datasets = pytest.importorskip("datasets")


@pytest.fixture(autouse=True)
def places(tmp_path, monkeypatch):
    monkeypatch.setenv("ALPRUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "hf")
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)


@pytest.fixture
def saved(tmp_path):
    return made_sources.make("hf saved", tmp_path / "data", known=True)


def table(root, name="x.parquet", **columns):
    """Write a Parquet file of pictures and other columns."""
    count = len(next(iter(columns.values())))
    images = [{"bytes": made_sources.png("dark", n), "path": None} for n in range(count)]
    given = datasets.Dataset.from_dict({"image": images} | columns)
    given.cast_column("image", datasets.Image()).to_parquet(root / name)
    return f"hf:{root / name}"


def test_splits_are_read_as_they_are_and_each_image_says_which_it_is(saved):
    splits = load(saved, size=(12, 12), incomplete=True)
    assert splits.train.classes == made_sources.CLASSES
    assert len(splits.train) == 16 and len(splits.test) == 8
    assert splits.train.paths[:2] == ("train/p0-000.png", "train/p0-001.png")
    assert splits.train.y.tolist() == [0] * 8 + [1] * 8
    assert np.array_equal(splits.train.x[9].numpy(), np.asarray(photos.picture("light", 1)))
    assert splits.train.files.picture(9) == made_sources.png("light", 1)


def test_what_was_decoded_is_kept_and_made_again_for_other_images(saved, tmp_path):
    cache = tmp_path / "own"
    first = load(saved, size=(12, 12), cache=cache)
    [kept] = list_caches(cache)
    assert kept.root == tmp_path / "data" / "saved" and kept.size == (12, 12)
    before = sorted(path.name for path in kept.path.iterdir())
    assert load(saved, size=(12, 12), cache=cache).digest == first.digest
    assert sorted(path.name for path in kept.path.iterdir()) == before
    shutil.rmtree(tmp_path / "data")
    made_sources.tables_of(tmp_path, True)["train"].save_to_disk(
        tmp_path / "data" / "saved" / "train"
    )
    other = f"hf:{tmp_path / 'data' / 'saved' / 'train'}"
    assert len(load(other, size=(12, 12), incomplete=True).train) == 16


def test_what_is_known_of_many_images_is_kept_though_the_table_only_names_them(
    tmp_path, monkeypatch
):
    monkeypatch.setattr("alprune.data.hugging_face._SMALL", 10)
    for name in ("dark", "light"):
        photos.fill(tmp_path / "photos" / "train" / name, name, range(6))
    assert len(load(f"hf:{tmp_path / 'photos'}", size=(12, 12), incomplete=True).train) == 12
    [kept] = list_caches(tmp_path / "cache")
    assert kept.size == (12, 12)


def test_labels_may_be_text_numbers_or_missing(tmp_path):
    texts = load(table(tmp_path, label=["b", " a", None, ""]), incomplete=True).train
    assert texts.classes == ("a", "b") and texts.y.tolist() == [1, 0, -1, -1]
    numbers = load(table(tmp_path, "n.parquet", label=[1, 0, -1, 2]), incomplete=True).train
    assert numbers.classes == ("0", "1", "2") and numbers.y.tolist() == [1, 0, -1, 2]
    pandas = load(table(tmp_path, "p.parquet", label=[1.0, 0.0, None, np.nan]), incomplete=True)
    assert pandas.train.classes == ("0", "1") and pandas.train.y.tolist() == [1, 0, -1, -1]
    none = load(table(tmp_path, "o.parquet", note=["x", "y"]), incomplete=True).train
    assert none.classes == () and none.y.tolist() == [-1, -1]


def with_tests(tmp_path, train, tests, **others):
    """Write a data set whose splits have the labels given."""
    (tmp_path / "set").mkdir()
    for split, labels in {"train": train, "test": tests, **others}.items():
        table(tmp_path / "set", f"{split}-0.parquet", label=labels)
    return f"hf:{tmp_path / 'set'}"


@pytest.mark.parametrize(
    ("train", "classes"), [([0, 1, 2, -1], ("a", "b", "c")), ([None] * 4, ("a", "b"))]
)
def test_test_images_whose_labels_are_hidden_test_nothing(tmp_path, train, classes):
    name = with_tests(tmp_path, train, [1, -1, 0] if 0 in train else [None] * 3)
    found = load(name, incomplete=True)
    left = found.test.y.tolist()
    assert left == [y for y in (1, 0) if 0 in train]
    assert found.notes == (
        f"left out: {3 - len(left)} test image{'s' * (not left)} without a label",
    )
    again = relabelled(found, found.train.y, (*found.train.classes, *classes))
    assert again.test.y.tolist() == left
    with pytest.raises(DataError, match="no label"):
        load(name)


def test_where_the_labels_of_test_are_hidden_the_images_of_validation_are_tested_on(tmp_path):
    name = with_tests(tmp_path, [0, 1, 0], [-1, -1], validation=[1, 0, 1])
    found = load(name)
    assert found.test.y.tolist() == [1, 0, 1]
    assert found.notes == ("left out: 2 images of the split test, none with a label",)
    assert open_images(name.removeprefix("hf:"), LoadOptions())[1][:2].tolist() == [-1, -1]


def test_columns_are_chosen_behind_the_name(tmp_path):
    name = table(tmp_path, label=["a", "b"], kind=["c", "d"])
    assert load(f"{name}?label=kind", incomplete=True).train.classes == ("c", "d")
    with pytest.raises(DataError, match="'sort'; its columns are .*kind.*label=COLUMN"):
        load(f"{name}?label=sort", incomplete=True)
    with pytest.raises(DataError, match="'kind' holds no images"):
        load(f"{name}?image=kind", incomplete=True)
    with pytest.raises(DataError, match="'colour' is not a setting"):
        load(f"{name}?colour=kind")


def test_files_that_a_table_names_elsewhere_are_refused(tmp_path):
    (tmp_path / "secret.png").write_bytes(made_sources.png("dark", 1))
    (tmp_path / "data").mkdir()
    images = [{"bytes": None, "path": str(tmp_path / "secret.png")}]
    given = datasets.Dataset.from_dict({"image": images})
    given.to_parquet(tmp_path / "data" / "x.parquet")
    name = f"hf:{tmp_path / 'data' / 'x.parquet'}"
    with pytest.raises(DataError, match="which is not in"):
        load(name, incomplete=True)
    assert len(load(name, incomplete=True, follow_links=True).train) == 1


def test_a_damaged_image_is_named(tmp_path):
    images = [{"bytes": b"no image", "path": "a/bad.png"}, {"bytes": None, "path": None}]
    images += [{"bytes": made_sources.png("dark", 1), "path": "good.png"}]
    datasets.Dataset.from_dict({"image": images}).to_parquet(tmp_path / "x.parquet")
    name = f"hf:{tmp_path / 'x.parquet'}"
    with pytest.raises(DataError, match="'train/bad.png' in .* --skip-unreadable"):
        load(name, incomplete=True)
    with pytest.warns(UserWarning, match="left out"):
        assert load(name, incomplete=True, skip_unreadable=True).train.paths == ("train/good.png",)


def test_without_the_package_a_message_says_what_to_install(saved, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match="pip install 'alprune\\[hf\\]'"):
        load(saved)


@pytest.mark.parametrize("name", ["nobody/nothing", "no/such/folder", "nothing.parquet"])
def test_what_is_neither_here_nor_reachable_is_said(name):
    with pytest.raises(DataError, match=f"'{name}' cannot be loaded: .* needs a network"):
        load(f"hf:{name}")


def test_a_folder_without_a_split_to_train_on_is_refused(tmp_path):
    made = datasets.DatasetDict({"test": made_sources.tables_of(tmp_path, True)["test"]})
    made.save_to_disk(tmp_path / "saved")
    with pytest.raises(DataError, match="has no split train; it has test"):
        load(f"hf:{tmp_path / 'saved'}")

"""Images that a table lists."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Subset, TensorDataset

from alprune.data import Splits, load
from alprune.data.manifest import _in_order, listed
from alprune.errors import DataError
from alprune.labelling import open_asking

ROWS = [
    ("a/0.png", "cat", "train"), ("b/1.png", "dog", ""), ("2.png", "", "train"),
    ("a/3.png", "cat", "test"), ("4.png", "dog", "TEST"), ("5.png", "dog", "val"),
]  # fmt: skip


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for number, (path, _, _) in enumerate(ROWS):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (4, 4, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / path)
    return tmp_path


def write(
    root: Path, rows: Sequence[Sequence[str]], head: str = "path,label,split", name: str = "t.csv",
    encoding: str = "utf-8",
) -> Path:  # fmt: skip
    text = "\n".join([head, *(",".join(row) for row in rows)])
    (root / name).write_text(text, encoding=encoding)
    return root / name


def opened(path: Any, query: str = "", **options: Any) -> Splits:
    kind = "parquet" if str(path).endswith(".parquet") else "csv"
    options = {"size": (4, 4), "incomplete": True} | options
    return load(f"{kind}:{path}{query}", **options)


def test_a_table_says_which_images_are_what(photos: Path) -> None:
    splits = opened(write(photos, ROWS))
    assert splits.train.classes == ("cat", "dog")
    assert splits.train.paths == ("2.png", "a/0.png", "b/1.png")
    assert splits.train.y.tolist() == [-1, 0, 1]
    assert splits.test.paths == ("4.png", "a/3.png") and splits.test.y.tolist() == [1, 0]
    assert "1 image of the split val" in splits.described()
    pixels = np.asarray(Image.open(photos / "a/0.png"))
    assert np.array_equal(splits.train.x[1].numpy(), pixels)


def test_columns_and_the_folder_of_images_are_named_behind_the_table(photos: Path) -> None:
    other = photos / "tables"
    other.mkdir()
    table = write(other, [(f"./{p}", y, s) for p, y, s in ROWS], "Datei,Art,Teil")
    query = f"?path=datei&label=Art&split=Teil&root={photos}"
    assert opened(table, query).train.digest == opened(write(photos, ROWS)).train.digest
    with pytest.raises(DataError, match=r"no column 'path' or .*got \['Datei'.*\?path=COLUMN"):
        opened(table)
    with pytest.raises(DataError, match="'labels' is not a setting .*known: path, label, split"):
        opened(table, "?labels=Art")


def test_without_splits_nothing_is_tested_on_and_a_run_is_refused(photos: Path) -> None:
    table = write(photos, [row[:2] for row in ROWS if row[1]], "file,class")
    assert len(opened(table).test) == 0
    with pytest.raises(DataError, match="no test images"):
        opened(table, incomplete=False)
    opened(write(photos, [row for row in ROWS if row[1]]), incomplete=False)


def test_of_a_table_without_test_the_split_val_is_tested_on(photos: Path) -> None:
    assert opened(write(photos, [r for r in ROWS if "est" not in r[2].lower()])).test.paths == (
        "5.png",
    )


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (("a/0.png", "dog", "train"), "line 8 and line 2 name 'a/0.png' with different labels"),
        (("a/0.png", "cat", "test"), "with different labels or splits"),
        (("a/0.png", "cat", "holdout"), "the split is 'holdout'; known: train"),
        (("../x.png", "cat", "train"), r"does not lie in .*\?root=FOLDER"),
        (("/etc/passwd", "cat", "train"), "does not lie in"),
        (("none.png", "cat", "train"), "1 of 6 files .*none.png.*No such file"),
        (("", "cat", "train"), "line 8 names no image"),
        (("2.png", "NA", "train"), "line 8: 'NA' is hardly the name of a class"),
        (("a,0.png", "cat", "train"), "must be in quotes"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(photos: Path, row: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        opened(write(photos, [*ROWS, row]))


def test_an_image_on_another_drive_is_refused_with_its_line(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def relpath(path: str, start: str) -> str:  # as on Windows
        raise ValueError("path is on mount 'D:', start on mount 'C:'")

    monkeypatch.setattr(os.path, "relpath", relpath)
    with pytest.raises(DataError, match=r"line 2: .*does not lie in .*\?root=FOLDER"):
        opened(write(photos, ROWS))


def test_labels_under_a_name_that_is_not_known_are_not_left_out_in_silence(photos: Path) -> None:
    table = write(photos, ROWS[:3], "path,species,split")
    with pytest.warns(UserWarning, match=r"no column 'label' or .*\['species'\].*\?label=COLUMN"):
        assert not opened(table).train.classes
    with pytest.raises(DataError, match="two columns 'label'. Remove one"):
        opened(write(photos, ROWS, "path,label,Label"))


def test_a_link_that_leads_out_is_followed_only_if_that_is_meant(
    photos: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    outside = tmp_path_factory.mktemp("outside")
    shutil.copy(photos / "5.png", outside / "x.png")
    (photos / "x.png").symlink_to(outside / "x.png")
    (photos / "linked").symlink_to(outside)
    table = write(photos, [*ROWS, ("x.png", "cat", "train"), ("linked/x.png", "cat", "train")])
    with pytest.raises(DataError, match="2 path.* lead out .*--follow-links"):
        opened(table)
    assert len(opened(table, follow_links=True).train) == 5


def test_an_encoding_is_named_or_asked_for(photos: Path) -> None:
    rows = [(p, {"cat": "кошка", "dog": "пёс", "": ""}[y], s) for p, y, s in ROWS]
    table = write(photos, rows, encoding="cp1251")
    with pytest.raises(DataError, match=r"cp1251 'кошка'.*\?encoding=cp1251"):
        opened(table)
    assert opened(table, "?encoding=cp1251").train.classes == ("кошка", "пёс")


def test_a_class_is_one_however_it_is_written_and_numbers_stay_in_order(photos: Path) -> None:
    rows = [(p, {"cat": "café", "dog": "cafe\u0301", "": ""}[y], s) for p, y, s in ROWS]
    assert opened(write(photos, rows)).train.classes == ("café",)
    rows = [(p, {"cat": "10.0", "dog": "9.0", "": ""}[y], s) for p, y, s in ROWS]
    assert opened(write(photos, rows)).train.classes == ("9", "10")


def test_parquet_says_the_same_as_csv(photos: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path, label, split = (list(column) for column in zip(*ROWS, strict=True))
    columns = {"path": path, "label": pa.array([y or None for y in label]).dictionary_encode()}
    parquet.write_table(pa.table(columns | {"split": split, "x": range(6)}), photos / "t.parquet")
    assert opened(photos / "t.parquet").train.digest == opened(write(photos, ROWS)).train.digest
    numbers = pa.array([0.0, 1.0, None, 0.0, 1.0, 1.0])
    parquet.write_table(pa.table({"path": path, "label": numbers}), photos / "n.parquet")
    assert opened(photos / "n.parquet").train.classes == ("0", "1")
    parquet.write_table(pa.table({"path": [{"bytes": b"x"}]}), photos / "b.parquet")
    with pytest.raises(DataError, match="row 1: a path, label or split must be text"):
        opened(photos / "b.parquet")
    (photos / "junk.parquet").write_bytes(b"PAR1junk")
    with pytest.raises(DataError, match="not a readable Parquet file"):
        opened(photos / "junk.parquet")


def test_people_are_asked_about_the_images_of_a_table(photos: Path, tmp_path: Path) -> None:
    table = write(photos, ROWS[:3])
    options = {"model": "lenet-300-100", "budget": 1.0, "device": "cpu", "image_size": 4}
    with open_asking(tmp_path / "d", dataset=f"csv:{table}", **options) as asking:
        assert [query.path for query in asking.ask().queries] == ["2.png"]
        asking.tell({"2.png": "cat"})
        assert asking.labels == {"2.png": "cat"}


def test_test_images_without_a_label_are_left_out_or_refused_and_predicted(photos: Path) -> None:
    table = write(photos, [*ROWS[:2], ("a/3.png", "cat", "test"), ("4.png", "", "test")])
    splits = opened(table)
    assert splits.test.paths == ("a/3.png",) and splits.test.y.tolist() == [0]
    assert splits.notes == ("left out: 1 test image without a label",)
    with pytest.raises(DataError, match="or some without a label"):
        opened(table, incomplete=False)
    assert "4.png" in listed(str(table), "csv", follow_links=False).paths


def test_numbers_that_may_be_one_class_or_none_are_warned_of(photos: Path) -> None:
    labels = ["01", "1", "-1", "1.0", "001"]
    rows = [(path, label) for (path, *_), label in zip(ROWS, labels, strict=False)]
    table = write(photos, rows, "path,label")
    with pytest.warns(UserWarning) as warned:
        assert opened(table).train.classes == ("001", "01", "1", "-1")
    said = [str(warning.message) for warning in warned]
    assert "line 4: '-1' counts as a class" in said[0] and "leave their cells empty" in said[0]
    assert "'001' and '01' and '1' are different classes, though the same number" in said[1]
    assert _in_order("01") != _in_order("1")  # else a set of texts decides, which is random


# --- data sets of torch ---


class Pictures:
    classes = ["cat", "dog"]

    def __init__(self, count: int, side: int = 5, kind: str = "RGB") -> None:
        self.count, self.side, self.kind = count, side, kind

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        if index >= self.count:
            raise IndexError(index)
        image = Image.new(self.kind, (self.side, self.side + 1), index)
        return image, index % 2


def test_a_data_set_of_torch_becomes_splits() -> None:
    splits = Splits.from_torch(Pictures(20), Pictures(4))
    assert splits.train.x.shape == (20, 6, 5, 3) and splits.train.classes == ("cat", "dog")
    assert splits.train.y.tolist() == [0, 1] * 10 and len(splits.test) == 4
    assert splits.train.x[3, 0, 0, 0] == 3 and splits.train.flip
    grey = Splits.from_torch(Pictures(20, kind="L"), size=(3, 3))
    assert grey.train.x.shape == (16, 3, 3, 1) and len(grey.test) == 4 and not grey.train.flip


def test_tensors_come_channels_first_and_parts_know_their_classes() -> None:
    x = torch.rand(10, 3, 4, 6)
    splits = Splits.from_torch(TensorDataset(x, torch.arange(10) % 2), 0.2, seed=1)
    assert splits.train.image_shape == (3, 4, 6) and splits.train.classes == ("0", "1")
    assert splits.train.x.dtype == torch.float32
    found = torch.cat([splits.train.x, splits.test.x]).permute(0, 3, 1, 2)
    assert all(any(torch.equal(a, b) for b in found) for a in x)
    assert Splits.from_torch(Subset(Pictures(30), range(12))).train.classes == ("cat", "dog")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("train", "options", "message"),
    [
        (iter([]), {}, "no length"),
        ([], {}, "holds no image"),
        ([(np.zeros((4, 4, 3), np.uint8), 0.5)] * 4, {}, "label of train.0. must be a whole"),
        ([(np.zeros((4, 4), np.uint16), 0)] * 4, {}, "is uint16: give uint8"),
        ([("x.png", 0)] * 4, {}, "must be a PIL image, a tensor"),
        ([5] * 4, {}, "an image and a label, failed with TypeError"),
        ([(np.zeros((s, 4, 3), np.uint8), s % 2) for s in (4, 5)], {}, r"Give size=\(h, w\)"),
        ([(Image.new(m, (4, 4)), 0) for m in ("L", "RGB")], {}, r"channels, as by image.convert"),
        ([(Image.new("I;16", (4, 4), 500), 0)] * 4, {}, "more than 8 bits .mode I;16.: give"),
        (Pictures(20), {"test": 1.5}, "a share of 20 images, got 1.5"),
    ],
)
def test_what_no_splits_can_be_made_of_is_refused(train: Any, options: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Splits.from_torch(train, **options)


def test_what_is_transparent_is_white() -> None:
    clear = [(Image.new("RGBA", (2, 2), (9, 9, 9, 0)), n % 2) for n in range(8)]
    assert Splits.from_torch(clear).train.x.min() == 255


def test_a_share_to_test_on_leaves_a_rare_class_an_image_to_train_on() -> None:
    images = [(np.full((2, 2, 3), n, np.uint8), max(0, n - 99)) for n in range(110)]
    for seed in range(3):
        splits = Splits.from_torch(images, 0.5, seed=seed)
        assert splits.train.y.unique().tolist() == [*range(11)] and len(splits.test) > 40
        both = torch.cat([splits.train.x, splits.test.x])[:, 0, 0, 0]
        assert both.sort().values.tolist() == [*range(110)]


def test_images_of_several_sizes_are_resized() -> None:
    both = [Pictures(20, side)[i] for i in range(20) for side in (4, 7)]
    assert Splits.from_torch(both, size=(5, 5)).train.image_shape == (3, 5, 5)

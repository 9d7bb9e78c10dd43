"""What the folders and files below a folder of images are taken for."""

import os
import unicodedata
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from alprune.data import Splits, leftovers, load
from alprune.data.dataset import spelt_as
from alprune.data.image_cache import formats
from alprune.data.layout import is_surely_unlabelled, label_of
from alprune.data.names import KnownNames, composed, folded, is_name, is_unlabelled
from alprune.errors import DataError

NFC, NFD = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))


def put(root: Path, *folders: str, n: int = 2) -> Path:
    """Put images into folders, none like another."""
    for folder in folders:
        (root / folder).mkdir(parents=True, exist_ok=True)
        for number in range(n):
            seed = zlib.crc32(f"{folder} {number}".encode(errors="surrogatepass"))
            pixels = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
            Image.fromarray(pixels).save(root / folder / f"{number}.png")
    return root


def opened(root: Path, **options: Any) -> Splits:
    return load(f"folder:{root}", size=(4, 4), incomplete=True, **options)


def run_on(root: Path) -> Splits:
    return load(f"folder:{root}", size=(4, 4))


def counts(splits: Splits) -> dict[str, int]:
    names = (*splits.train.classes, "-")
    found = [names[label] for label in splits.train.y.tolist()]
    return {name: found.count(name) for name in names}


# --- reserved words among the names of people ---


def test_a_class_called_train_beside_others_is_a_class_and_that_is_said(tmp_path: Path) -> None:
    splits = opened(put(tmp_path, "bus", "car", "train", "unlabelled"))
    assert counts(splits) == {"bus": 2, "car": 2, "train": 2, "-": 2}
    assert "train/ is read as a class" in splits.described()


def test_images_in_train_without_classes_have_no_label(tmp_path: Path) -> None:
    assert counts(opened(put(tmp_path, "train", "test/cat"))) == {"cat": 0, "-": 2}


@pytest.mark.parametrize("more", [(), ("test/cat", "test/dog")])
def test_classes_and_splits_in_one_folder_are_refused(
    tmp_path: Path, more: tuple[str, ...]
) -> None:
    put(tmp_path, "train/cat", "train/dog", "bus", *more)
    with pytest.raises(DataError, match="holds train/ and, beside it.*'bus'"):
        opened(tmp_path)


def test_a_class_called_test_is_not_taken_for_test_images(tmp_path: Path) -> None:
    put(tmp_path, "exam", "test")
    with pytest.raises(DataError, match="without a label.*If 'test' is a class"):
        opened(tmp_path)


def test_test_images_in_no_class_are_refused_and_not_dropped(tmp_path: Path) -> None:
    put(tmp_path, "train/cat", "train/dog", "test")
    for load_it in (opened, run_on):
        with pytest.raises(DataError, match="2 images without a label, which can test nothing"):
            load_it(tmp_path)


def test_stray_images_and_other_folders_of_a_labelled_set_are_counted(tmp_path: Path) -> None:
    put(tmp_path, "train/cat", "train/dog", "test/cat", "test/dog", "test", "extra/a/b", "val/cat")
    put(tmp_path, "unlabelled", ".", "docs", n=3)
    (tmp_path / "docs" / "0.png").rename(tmp_path / "docs" / ".hidden.png")
    said = run_on(tmp_path).described()
    left_out = {"extra/": 2, "val/": 2, "docs/": 2, "unlabelled/": 3, "no folder": 3}
    for place, count in (left_out | {"no folder of test/": 2}).items():
        assert f"{count} images in {place}" in said


def test_hidden_folders_of_images_are_counted(tmp_path: Path) -> None:
    put(tmp_path, "cat", "dog", ".net", "cat/.thumbnails", ".empty/below")
    assert "left out: 2 hidden folders of images" in opened(tmp_path).described()


def test_pipes_and_broken_links_in_no_folder_are_told_like_those_in_one(tmp_path: Path) -> None:
    put(tmp_path, ".")
    os.mkfifo(tmp_path / "pipe.jpg")
    for name, to in (("broken.jpg", "none.jpg"), ("loop.jpg", "loop.jpg")):
        (tmp_path / name).symlink_to(to)
    with pytest.raises(DataError, match="2 of 4 files .*broken.jpg.*loop.jpg"):
        opened(tmp_path)
    with pytest.warns(UserWarning, match="They are left out"):
        splits = opened(tmp_path, skip_unreadable=True)
    assert len(splits.train) == 2
    assert "2 files that cannot be read, 1 special file" in splits.described()


def test_unlabelled_images_beside_the_splits_are_asked_for(tmp_path: Path) -> None:
    put(tmp_path, "train/cat", "train/dog", "test/cat", "_Unlabeled", ".")
    assert counts(opened(tmp_path)) == {"cat": 2, "dog": 2, "-": 4}


def test_a_folder_val_is_tested_on_where_there_is_no_test(tmp_path: Path) -> None:
    splits = run_on(put(tmp_path, "train/cat", "train/dog", "val/cat", "val/dog"))
    assert len(splits.test) == 4 and "val/ is tested on" in splits.described()


@pytest.mark.parametrize("words", [("Train", "TEST"), ("TRAIN", "Test")])
def test_splits_are_known_in_capitals(tmp_path: Path, words: tuple[str, str]) -> None:
    put(tmp_path, *(f"{word}/{name}" for word in words for name in ("cat", "dog")))
    assert len(run_on(tmp_path).train) == 4
    (tmp_path / words[0].lower()).mkdir()
    with pytest.raises(DataError, match="holds both"):
        run_on(tmp_path)


@pytest.mark.parametrize(
    "name", ["Unlabelled", "UNLABELED", "_unlabeled", "unlabelled ", "[unlabeled]"]
)
def test_images_without_a_label_are_known_however_the_folder_is_spelt(
    tmp_path: Path, name: str
) -> None:
    assert counts(opened(put(tmp_path, "cat", "dog", name))) == {"cat": 2, "dog": 2, "-": 2}


@pytest.mark.parametrize(
    ("path", "label"),
    [
        ("train/car/1.png", "car"),
        ("train/train/a/1.png", "train"),
        ("train/1.png", "train"),
        ("Test/test/1.png", "test"),
        ("val/car/1.png", "car"),
        ("train/unlabelled/car/1.png", None),
        ("car/train/1.png", "car"),
        ("1.png", None),
    ],
)
def test_a_path_names_its_class_where_classes_are_called_like_parts(
    path: str, label: str | None
) -> None:
    assert label_of(path, KnownNames(["car", "train", "test"])) == label
    assert not (is_surely_unlabelled(path) and label)


def test_what_is_labelled_otherwise_is_a_class() -> None:
    assert not any(map(is_unlabelled, ("unlabelled things", "labelled", "unknown", "")))


# --- one class, however its name is spelt ---


@pytest.mark.parametrize(
    ("train", "test"), [(NFC, NFD), (NFD, NFC), ("Bird", "bird"), ("bird", "bird "), ("ß", "SS")]
)
def test_a_class_is_one_in_train_and_test(tmp_path: Path, train: str, test: str) -> None:
    splits = run_on(put(tmp_path, f"train/{train}", "train/x", f"test/{test}", "test/x"))
    assert splits.train.classes == tuple(sorted((train, "x")))
    assert "written otherwise" in splits.described()


def test_composed_and_decomposed_folders_are_one_class_and_case_makes_two(tmp_path: Path) -> None:
    put(tmp_path, NFC, NFD, "Cat", "cat")
    splits = opened(tmp_path)
    assert counts(splits) == {"Cat": 2, "cat": 2, NFC: 4, "-": 0}
    assert "different classes: 'Cat', 'cat'" in splits.described()


def test_classes_are_spelt_as_a_record_spells_them(tmp_path: Path) -> None:
    splits = opened(put(tmp_path, NFD, "dog ", "Cat", "cat", "x"))
    again = spelt_as(splits, [NFC, "dog", "cat", "old"])
    assert set(again.train.classes) == {NFC, "dog", "Cat", "cat", "x"}
    assert spelt_as(splits, splits.train.classes) is splits
    assert again.train.y.tolist() == splits.train.y.tolist()


text = st.text(st.characters(blacklist_categories=["Cs"]), max_size=8)


@given(text, st.lists(text, max_size=6))
def test_a_name_means_itself_or_the_only_one_alike(name: str, others: list[str]) -> None:
    known = KnownNames(others)
    found = known.find(name)
    if name in others:
        assert found == name
    elif found is not None:
        assert folded(found) == folded(name)
        same = {other for other in others if composed(other) == composed(name)}
        assert same == {found} or len({o for o in others if folded(o) == folded(name)}) == 1


@given(text)
def test_forms_are_the_same_when_made_again(name: str) -> None:
    for form in (composed, folded):
        assert form(form(name)) == form(name)
    for other in (unicodedata.normalize("NFD", name), f" {name} ", f"\ufeff{name} \u200b"):
        assert folded(other) == folded(name)


@pytest.mark.parametrize(
    "name",
    [
        "گربه\u200cها",
        "ශ්\u200dරී",
        "👨\u200d👧",
        "三毛\u3000猫",
        "a b",
        "é",
        "-",
        "❤\ufe0f",
        "\u202bx",
    ],
)
def test_names_in_any_script_are_names(name: str) -> None:
    assert is_name(name)


@pytest.mark.parametrize(
    "name", ["", "  ", "a\nb", "a\x1b[2J", "a\0", "\ud83d", "x" * 101, "a\u2028b"]
)
def test_control_characters_are_no_names(name: str) -> None:
    assert not is_name(name)


def test_a_class_folder_of_control_characters_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="control characters"):
        opened(put(tmp_path, "cat", "a\x1bb"))


# --- what systems and tools leave behind ---


@pytest.mark.parametrize(
    "folder",
    ["__MACOSX/cat", "@eaDir/0.png", "System Volume Information", "$RECYCLE.BIN", "lost+found",
     "#recycle", ".ipynb_checkpoints", "__MacOSX"],
)  # fmt: skip
def test_folders_of_systems_are_no_classes(tmp_path: Path, folder: str) -> None:
    put(tmp_path, "cat", "dog", folder, f"cat/{folder}")
    splits = opened(tmp_path)
    assert counts(splits) == {"cat": 2, "dog": 2, "-": 0}
    if folder[0] != ".":
        assert "2 folders of the system" in splits.described()


@pytest.mark.parametrize(
    "name",
    ["Thumbs.db", "desktop.ini", "Icon\r", "IMG_0.MOV", "IMG_0.AAE", "0.png.json", "0.xmp",
     "0.png.supplemental-metadata.json", "predictions.csv", "._0.png", ".DS_Store", "notes.txt",
     "0.xml", "Prices.PDF", "0.json"],
)  # fmt: skip
def test_files_of_systems_cameras_and_programs_are_no_damaged_images(
    tmp_path: Path, name: str
) -> None:
    put(tmp_path, "cat", "dog", "unlabelled")
    for folder in ("cat", "unlabelled", "."):
        (tmp_path / folder / name).write_bytes(b"\xd0\xcf\x11\xe0")
    splits = opened(tmp_path)
    assert len(splits.train) == 6
    if name[0] != ".":
        assert "left out: 3 " in splits.described()


def test_our_own_folders_among_the_images_are_no_classes(tmp_path: Path) -> None:
    put(tmp_path, "cat", "dog", "birds", "runs/a", "report/pictures", "queries")
    for run in ("birds", "runs/a"):
        (tmp_path / run / "config.toml").touch()
        (tmp_path / run / "events.jsonl").touch()
    for name in ("report.html", "report.md"):
        (tmp_path / "report" / name).touch()
    (tmp_path / "queries" / "0.png").rename(tmp_path / "queries.png")
    splits = opened(tmp_path)
    assert counts(splits) == {"cat": 2, "dog": 2, "queries": 1, "-": 0}
    assert "3 folders of alprune" in splits.described()
    assert "1 file of alprune" in splits.described()


def test_an_empty_class_folder_stays_a_class(tmp_path: Path) -> None:
    put(tmp_path, "cat", "dog")
    (tmp_path / "eel").mkdir()
    (tmp_path / "eel" / "Thumbs.db").touch()
    assert opened(tmp_path).train.classes == ("cat", "dog", "eel")


def test_heic_photos_beside_others_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path, ".")
    for number in range(10):
        (tmp_path / f"IMG_{number}.HEIC").write_bytes(b"\0\0\0\x18ftypheic" + bytes([number]) * 99)
    monkeypatch.setattr(leftovers, "can_read_heic", lambda: False)
    splits = opened(tmp_path)
    assert len(splits.train) == 2 and "10 HEIC photos (" in splits.described()
    monkeypatch.setattr(leftovers, "can_read_heic", lambda: True)
    with pytest.raises(DataError, match=r"10 of 12 files.*IMG_0\.HEIC"):
        opened(tmp_path)
    monkeypatch.setattr(formats, "can_read_heic", lambda: False)
    with pytest.raises(DataError, match=r"10 of 12 files.* are HEIC photos: IMG_0\.HEIC.*install"):
        opened(tmp_path)


def test_a_suffix_with_a_space_behind_it_is_one(tmp_path: Path) -> None:
    put(tmp_path, ".", n=1)
    (tmp_path / "0.png").rename(tmp_path / " begin and end.PNG ")
    assert opened(tmp_path).train.paths == (" begin and end.PNG ",)


def test_raw_photos_and_other_files_are_counted(tmp_path: Path) -> None:
    put(tmp_path, ".", "unlabelled")
    for name in ("a.CR2", "unlabelled/b.dng", "notes.txt", "drawing.svg", "noname"):
        (tmp_path / name).touch()
    said = opened(tmp_path).described()
    assert "2 raw photos" in said and "2 other files" in said and "1 image of other" in said


def test_loading_says_in_one_line_what_was_counted_as_what(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(tmp_path, "cat", "dog", "unlabelled", "test/cat", n=3)
    opened(tmp_path)
    assert capsys.readouterr() == ("", "")
    opened(tmp_path, progress=True)
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1
    assert "2 classes (cat, dog): 6 labelled images, 3 without a label, 3 to test on." in err
    put(tmp_path / "new", "unlabelled", n=3)
    (tmp_path / "new" / "unlabelled" / "cut.png").touch()
    with pytest.warns(UserWarning, match="1 of 4 files"):
        said = opened(tmp_path / "new", skip_unreadable=True).described()
    assert said == "3 images without a label; left out: 1 file that cannot be read."


def _can_name_a_folder(name: str) -> bool:
    return is_name(name) and name.strip() not in (".", "..")


@settings(max_examples=30)
@given(st.dictionaries(text.filter(_can_name_a_folder), st.integers(1, 2), min_size=1, max_size=4))
def test_any_names_of_folders_are_classes_or_refused(
    tmp_path_factory: pytest.TempPathFactory, folders: dict[str, int]
) -> None:
    root = tmp_path_factory.mktemp("any")
    try:
        for name, n in folders.items():
            put(root, name.replace("/", "_"), n=n)
    except OSError:  # the file system refuses the name
        return
    try:
        splits = opened(root)
    except DataError as error:
        if all(name[0] == "." for name in folders):
            assert "there is no image in" in str(error)
        else:
            assert "test" in {folded(name) for name in folders}
            assert "can test nothing" in str(error)
        return
    hidden = sum(n for name, n in folders.items() if name[0] == ".")
    assert len(splits.train) == len(set(splits.train.paths or ())) <= sum(folders.values()) - hidden

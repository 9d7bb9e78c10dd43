import io
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from alprune.data import leftovers, listing, load
from alprune.errors import DataError
from alprune.runs.predict import files


def pixels(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


CLASSES = ("cat", "dog")


def save(path: Path, image: Image.Image | None = None, **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    seed = zlib.crc32(path.name.encode())
    (image or Image.fromarray(pixels(10, 12, 3, seed=seed))).save(path, **options)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for part in ("train", "test"):
        for name in reversed(CLASSES):
            for index in (2, 0, 1):
                save(tmp_path / part / name / f"{index}.png")
    return tmp_path


def only(tree: Path, image: Image.Image, file: str = "9.png", **options: Any) -> np.ndarray:
    """Save `image` as the last training image of the dogs, load, and return it `(h, w, c)`."""
    save(tree / "train" / "dog" / file, image, **options)
    return load(f"folder:{tree}", size=(image.height, image.width)).train.x[-1].numpy()


def test_folder_images_come_in_sorted_order_with_their_class(tree: Path) -> None:
    splits = load(f"folder:{tree}", size=(10, 12))
    assert splits.train.classes == CLASSES
    assert splits.train.y.tolist() == [0, 0, 0, 1, 1, 1]
    assert splits.train.flip is True
    for index in range(3):
        expected = pixels(10, 12, 3, seed=zlib.crc32(f"{index}.png".encode()))
        assert np.array_equal(splits.train.x[index].numpy(), expected)
        assert np.array_equal(splits.test.x[3 + index].numpy(), expected)


def test_folder_images_are_resized_to_32_unless_told(tree: Path) -> None:
    assert load(f"folder:{tree}").train.image_shape == (3, 32, 32)
    splits = load(f"folder:{tree}", size=(5, 7))
    assert splits.test.image_shape == (3, 5, 7)
    source_image = Image.open(tree / "test" / "cat" / "0.png")
    expected = np.asarray(source_image.resize((7, 5), Image.Resampling.BILINEAR))
    assert np.array_equal(splits.test.x[0].numpy(), expected)


def test_folder_loads_more_files_than_one_task_takes(tree: Path) -> None:
    for index in range(150):
        save(tree / "train" / "cat" / f"many{index:03}.png", Image.new("RGB", (4, 4), (index,) * 3))
    splits = load(f"folder:{tree}", progress=True)
    assert splits.train.x[3:153, 0, 0, 0].tolist() == list(range(150))


def test_folder_reads_folders_below_a_class_and_leaves_hidden_files_out(tree: Path) -> None:
    save(tree / "train" / "cat" / "deep" / "er" / "x.png")
    save(tree / "train" / "cat" / ".thumbs" / "x.png")
    (tree / "train" / "cat" / ".DS_Store").write_bytes(b"junk")
    (tree / "train" / ".cache").mkdir()
    (tree / "train" / "notes.txt").write_text("not in a class folder")
    save(tree / "train" / "cat" / ".x.png")
    save(tree / "train" / ".y.png")
    (tree / "train" / "cat" / "._x.png").write_bytes(b"notes of macOS")
    splits = load(f"folder:{tree}")
    assert len(splits.train) == 7 and "2 hidden images" in splits.described()


def test_grey_images_get_one_channel_only_if_all_are_grey(tmp_path: Path) -> None:
    grey = Image.fromarray(pixels(6, 6))
    sixteen = Image.fromarray(pixels(6, 6).astype(np.uint16) * 256)
    root = tmp_path / "grey"
    for part in ("train", "test"):
        for name in CLASSES:
            save(root / part / name / "8.png", grey)
            save(root / part / name / "16.png", sixteen)
            save(root / part / name / "bits.png", grey.convert("1"))
    splits = load(f"folder:{root}", size=(6, 6))
    assert splits.train.image_shape == (1, 6, 6)
    assert splits.train.flip is False
    assert np.array_equal(splits.train.x[1, ..., 0].numpy(), np.asarray(grey))
    save(root / "test" / "dog" / "colour.png")
    assert load(f"folder:{root}", size=(6, 6)).train.image_shape == (3, 6, 6)


def test_grey_palette_and_cmyk_images_become_rgb(tree: Path) -> None:
    colour = Image.fromarray(pixels(8, 8, 3))
    grey = pixels(8, 8)
    assert np.array_equal(only(tree, Image.fromarray(grey)), np.stack([grey] * 3, -1))
    palette = colour.quantize(16)
    assert np.array_equal(only(tree, palette), np.asarray(palette.convert("RGB")))
    flat = Image.new("CMYK", (8, 8), (0, 255, 255, 0))  # full magenta and yellow: red
    assert np.abs(only(tree, flat, "flat.jpg").astype(int) - [255, 0, 0]).max() < 4


def test_sixteen_bit_images_keep_their_upper_bits(tree: Path) -> None:
    upper, lower = pixels(8, 8), pixels(8, 8, seed=1)
    image = Image.fromarray(upper.astype(np.uint16) * 256 + lower)
    assert np.array_equal(only(tree, image), np.stack([upper] * 3, -1))


def test_transparent_pixels_become_white(tree: Path) -> None:
    rgba = pixels(8, 8, 4)
    rgba[..., 3] = np.where(np.arange(8) < 4, 0, 255)
    for image in (Image.fromarray(rgba), Image.fromarray(rgba).convert("LA")):
        result = only(tree, image)
        assert (result[:, :4] == 255).all()
        assert np.array_equal(result[:, 4:], np.asarray(image.convert("RGB"))[:, 4:])
    palette = Image.new("P", (8, 8), 0)
    palette.putpalette([10, 20, 30, 40, 50, 60])
    assert (only(tree, palette, transparency=0) == 255).all()


def test_rotation_in_exif_is_undone(tree: Path) -> None:
    upright = Image.fromarray(pixels(6, 9, 3))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter clockwise for viewing
    stored = upright.transpose(Image.Transpose.ROTATE_90)
    save(tree / "train" / "dog" / "9.png", stored, exif=exif)
    result = load(f"folder:{tree}", size=(6, 9)).train.x[-1].numpy()
    assert np.array_equal(result, np.asarray(upright))


def test_large_photographs_are_scaled_down_smoothly(tree: Path) -> None:
    ramp = np.linspace(0, 255, 800).astype(np.uint8)
    photo = Image.fromarray(np.broadcast_to(ramp[None, :, None], (600, 800, 3)).copy())
    save(tree / "train" / "dog" / "9.jpg", photo, quality=95)
    result = load(f"folder:{tree}", size=(24, 32)).train.x[-1].numpy()
    exact = np.asarray(photo.resize((32, 24), Image.Resampling.BOX), int)
    assert np.abs(result.astype(int) - exact).max() < 4


def test_an_animation_counts_by_its_first_frame(tree: Path) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    save(tree / "train" / "dog" / "9.gif", frames[0], save_all=True, append_images=frames[1:])
    result = load(f"folder:{tree}", size=(8, 8)).train.x[-1].numpy()
    assert (result == [255, 0, 0]).all()


def png_header(width: int, height: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 64))


def break_files(tree: Path) -> None:
    dogs = tree / "train" / "dog"
    (dogs / "empty.png").touch()
    (dogs / "notes").write_text("labels: see wiki")
    (dogs / "bomb.png").write_bytes(png_header(50_000, 50_000))
    (dogs / "large.png").write_bytes(png_header(10_000, 9_000))
    buffer = io.BytesIO()
    Image.fromarray(pixels(40, 40, 3)).save(buffer, "JPEG")
    (dogs / "cut.jpg").write_bytes(buffer.getvalue()[:700])
    (dogs / "drawing.eps").write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"
    )
    (dogs / "gone.png").symlink_to(tree / "nowhere.png")
    Image.fromarray(np.ones((4, 4), np.float32)).save(dogs / "real.tiff")


def test_files_that_do_not_decode_are_named_with_their_number(tree: Path) -> None:
    break_files(tree)
    with pytest.raises(DataError) as caught:
        load(f"folder:{tree}")
    message = str(caught.value)
    assert message.startswith("8 of 20 files in")
    for part in ("bomb.png", "cut.jpg", "drawing.eps", "and 3 more", "--skip-unreadable"):
        assert part in message


@pytest.mark.parametrize("file", ["bomb.png", "large.png"])
def test_decompression_bombs_are_refused(tree: Path, file: str) -> None:
    break_files(tree)
    for path in (tree / "train" / "dog").iterdir():
        if path.name != file and not path.name[0].isdigit():
            path.unlink()
    with pytest.raises(DataError, match=f"1 of 13 files.*{file}.*pixels"):
        load(f"folder:{tree}")


def test_unreadable_files_are_skipped_with_a_warning_on_request(tree: Path) -> None:
    whole = load(f"folder:{tree}")
    break_files(tree)
    with pytest.warns(UserWarning, match=r"8 of 20 files.*bomb\.png.*left out"):
        splits = load(f"folder:{tree}", skip_unreadable=True)
    assert splits.train.digest == whole.train.digest
    assert splits.test.digest == whole.test.digest


def test_a_class_of_which_nothing_can_be_read_is_refused_even_when_skipping(tree: Path) -> None:
    for path in (tree / "train" / "dog").iterdir():
        path.write_bytes(b"junk")
    with (
        pytest.warns(UserWarning, match="3 of 12"),
        pytest.raises(DataError, match="no training image: dog"),
    ):
        load(f"folder:{tree}", skip_unreadable=True)


def test_links_to_folders_are_not_followed_and_pipes_not_opened(tree: Path) -> None:
    (tree / "train" / "cat" / "loop").symlink_to(tree)
    os.mkfifo(tree / "train" / "cat" / "pipe.png")
    splits = load(f"folder:{tree}")
    assert len(splits.train) == 6 and "1 special file" in splits.described()
    (tree / "train" / "eel").symlink_to(tree)
    (tree / "test" / "eel").symlink_to(tree)
    with pytest.raises(DataError, match="eel.*links to a folder that contains it"):
        load(f"folder:{tree}")


def test_links_that_lead_out_are_refused_unless_asked_for(
    tree: Path, tmp_path_factory: Any
) -> None:
    store = tmp_path_factory.mktemp("store")
    save(store / "eels" / "0.png")
    for part in ("train", "test"):
        (tree / part / "eel").symlink_to(store / "eels")
    with pytest.raises(DataError, match="^1 link leads out of .*train/eel' to '.*eels'.*--fol"):
        load(f"folder:{tree}")
    (tree / "train" / "eel").unlink()
    for name in ("7.png", "8.png"):
        (tree / "train" / "cat" / name).symlink_to(store / "eels" / "0.png")
    with pytest.raises(DataError, match="^2 links lead out of .*7.png' to '.*0.png'"):
        load(f"folder:{tree}")
    (tree / "train" / "eel").symlink_to(store / "eels")
    splits = load(f"folder:{tree}", follow_links=True)
    assert splits.train.classes == ("cat", "dog", "eel")
    assert (len(splits.train), len(splits.test)) == (9, 7)


def test_junctions_of_windows_are_links(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    junction = tree / "train" / "cat" / "My Pictures"
    junction.mkdir()
    save(junction / "0.png")

    def is_link(entry: Any) -> bool:
        return entry.name == junction.name or leftovers.is_link(entry)

    assert len(load(f"folder:{tree}").train) == 7
    for module in (listing, files):
        monkeypatch.setattr(module, "is_link", is_link)
    assert len(load(f"folder:{tree}").train) == 6
    assert files.count_files(tree / "train" / "cat") == (3, "1 link to folders")


def test_links_that_stay_within_are_followed(tree: Path) -> None:
    (tree / "train" / "dog" / "7.png").symlink_to("0.png")
    (tree / "store").mkdir()
    save(tree / "store" / "0.png")
    for part in ("train", "test"):
        (tree / part / "eel").symlink_to("../store")
    assert load(f"folder:{tree}").train.y.tolist() == [0, 0, 0, 1, 1, 1, 1, 2]


def test_a_folder_that_is_itself_a_link_may_be_loaded(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tree)
    assert len(load(f"folder:{tmp_path / 'link'}").train) == 6


def test_half_transparent_pixels_are_mixed_with_white(tree: Path) -> None:
    half = Image.new("RGBA", (8, 8), (255, 0, 100, 128))
    assert np.abs(only(tree, half).astype(int) - [255, 127, 177]).max() <= 1


def remove(folder: Path) -> None:
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    folder.rmdir()


@pytest.mark.parametrize(
    ("removed", "message"),
    [
        ("test", "there is no folder .*test'.*move some of each class"),
        ("train", "there is no folder .*train'.*Expected train/<class>"),
        ("train/dog", "same classes; only in test: 'dog'"),
        ("test/cat", "same classes; only in train: 'cat'"),
    ],
)
def test_a_missing_folder_is_refused_with_what_to_do(
    tree: Path, removed: str, message: str
) -> None:
    remove(tree / removed)
    with pytest.raises(DataError, match=message):
        load(f"folder:{tree}")


def test_a_missing_relative_folder_is_said_to_be_missing_where_it_was_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # as where a labelling that began elsewhere is resumed
    for name in ("folder:photos", "csv:t.csv?root=photos", "shards:photos"):
        with pytest.raises(DataError, match=f"there is no folder 'photos' in '{tmp_path}'"):
            load(name)


def test_an_empty_class_and_a_folder_without_classes_are_refused(tree: Path) -> None:
    for name in CLASSES:
        remove(tree / "test" / name)
    with pytest.raises(DataError, match="has no class folders"):
        load(f"folder:{tree}")
    (tree / "test" / "cat").mkdir()
    with pytest.raises(DataError, match="no image in .*cat"):
        load(f"folder:{tree}")
    with pytest.raises(DataError, match="there is no folder"):
        load(f"folder:{tree / 'nowhere'}")

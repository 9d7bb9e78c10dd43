"""Arrays that stay in their file, and files that lie about what is in them."""

import errno
import io
import json
import shutil
import struct
import subprocess
import sys
import tempfile
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from alprune.data import LoadOptions, Splits, npz
from alprune.data.arrays import find_arrays
from alprune.data.dataset import content_digest
from alprune.data.memmap import MappedImages, map_images, spool
from alprune.data.resizing import resize
from alprune.data.statistics import channel_statistics
from alprune.errors import DataError
from alprune.loop.oracle import Simulation
from alprune.loop.setup import complete, open_session

MAPPED = LoadOptions(in_memory=0)
BENCH = Path(__file__).parents[2] / "recipes" / "bench" / "pool.py"


def arrays(kind: Any = np.uint8, n: int = 30) -> dict[str, np.ndarray]:
    pixels = np.random.default_rng(0).integers(0, 256, (n, 6, 5, 3), dtype=np.uint8)
    y = np.arange(n) % 3
    return {
        "x_train": pixels.astype(kind),
        "y_train": y,
        "x_test": pixels[: n // 2].astype(kind),
        "y_test": y[: n // 2],
    }


def write_folder(path: Path, parts: dict[str, np.ndarray]) -> None:
    path.mkdir()
    for name, values in parts.items():
        np.save(path / f"{name}.npy", values)


WRITERS = {"npz": lambda path, parts: np.savez(open(path, "wb"), **parts), "folder": write_folder}


@pytest.mark.parametrize("kind", WRITERS)
def test_what_macos_puts_beside_arrays_is_left_out(tmp_path: Path, kind: str) -> None:
    WRITERS[kind](path := tmp_path / "data.npz", arrays())
    if path.is_dir():
        (path / "._x_train.npy").write_bytes(b"attributes")
    else:
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr("__MACOSX/._x_train.npy", b"attributes")
    assert sorted(find_arrays(path)) == sorted(arrays())


def write(path: Path, parts: dict[str, np.ndarray]) -> str:
    np.savez(path, **parts)
    return str(path)


def equal(ours: Splits, theirs: Splits) -> None:
    for a, b in ((ours.train, theirs.train), (ours.test, theirs.test)):
        assert np.array_equal(a.x.numpy(), b.x.numpy()) and torch.equal(a.y, b.y)
        assert a.x.dtype == b.x.dtype
        assert (a.mean, a.std, a.digest, a.classes) == (b.mean, b.std, b.digest, b.classes)


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("kind", [np.uint8, np.float32])
def test_images_in_the_file_equal_images_in_memory(tmp_path: Path, writer: str, kind: Any) -> None:
    path = tmp_path / "data.npz"
    WRITERS[writer](path, arrays(kind))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mapped = npz.load(str(path), MAPPED)
    assert isinstance(mapped.train.x, MappedImages) and isinstance(mapped.test.x, MappedImages)
    in_memory = npz.load(str(path), LoadOptions())
    assert not isinstance(in_memory.train.x, MappedImages)
    equal(mapped, in_memory)
    assert mapped.train.digest == content_digest(in_memory.train.x, in_memory.train.y)


def test_grey_images_without_a_channel_are_mapped_with_one(tmp_path: Path) -> None:
    parts = {name: a[..., 0] if name[0] == "x" else a for name, a in arrays().items()}
    mapped = npz.load(write(tmp_path / "data.npz", parts), MAPPED)
    assert isinstance(mapped.train.x, MappedImages)
    assert torch.equal(mapped.train.x[..., 0].clone(), torch.from_numpy(parts["x_train"]))


@pytest.mark.parametrize("shift", range(9))
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_rows_of_an_array_at_any_byte_of_the_file_are_read_right(
    shift: int, dtype: torch.dtype
) -> None:
    values = torch.rand(40, 7, 3, 1, generator=torch.Generator().manual_seed(0)).mul(255).to(dtype)
    file = io.BytesIO(bytes(shift) + values.numpy().tobytes() + b"more")
    with tempfile.TemporaryFile() as real:
        real.write(file.getvalue())
        mapped = map_images(real, shift, dtype, tuple(values.shape))
    some = torch.tensor([39, 0, 17, 17])
    for result, expected in (
        (mapped.index_select(0, some), values[some]),
        (mapped[some], values[some]),
        (mapped[5:30], values[5:30]),
        (mapped[3], values[3]),
        (mapped.float() / 255, values.float() / 255),
        (mapped.isfinite(), torch.ones_like(values, dtype=torch.bool)),
    ):
        assert type(result) is Tensor
        assert torch.equal(result, expected)
    assert channel_statistics(mapped) == channel_statistics(values)
    assert torch.equal(resize(mapped, (9, 2)), resize(values, (9, 2)))


def test_images_in_a_file_cannot_be_written_to(tmp_path: Path) -> None:
    x = npz.load(write(tmp_path / "data.npz", arrays()), MAPPED).train.x
    for change in (lambda: x.zero_(), lambda: x.__setitem__(0, 1)):
        with pytest.raises(DataError, match="read-only"):
            change()
    x.clone().zero_()


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="counts pages as Linux does")
def test_few_pages_of_the_file_stay_in_memory(tmp_path: Path) -> None:
    path = tmp_path / "rows"
    path.write_bytes(bytes(2**25))
    with path.open("rb") as file:
        mapped = map_images(file, 0, torch.uint8, (2**15, 32, 32, 1))
    most = 0
    for part in torch.randperm(2**15).split(2**12)[:2]:
        mapped.index_select(0, part[:100])
        most = max(most, resident_kb(path))
    for begin in range(0, 2**15, 2**13):
        mapped[begin : begin + 2**13].clone()
        most = max(most, resident_kb(path))
    for part in mapped.split(2**13):
        part.clone()
    mapped.index_select(3, torch.tensor([0]))
    most = max(most, resident_kb(path))
    plain = mapped.as_subclass(Tensor)
    plain.clone()
    assert resident_kb(path) == 2**15  # so the count is right, and a plain tensor keeps them all
    assert most <= 2**13  # the last slice's: what is done with a slice later is not seen


def resident_kb(path: Path) -> int:
    total, ours = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split(" ")[0]:
            ours = line.endswith(str(path))
        elif ours and line.startswith("Rss:"):
            total += int(line.split()[1])
    return total


# --- what cannot be used where it lies ------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*temporary file")  # of the other array
@pytest.mark.parametrize("kind", [np.float16, np.float64, ">f4"])
def test_other_floats_are_converted_into_a_temporary_file_with_a_warning(
    tmp_path: Path, kind: Any
) -> None:
    path = write(tmp_path / "data.npz", arrays(kind))
    with pytest.warns(UserWarning, match="x_train of .*temporary file.*type is .*float32"):
        mapped = npz.load(path, MAPPED)
    assert isinstance(mapped.train.x, MappedImages)
    equal(mapped, npz.load(path, LoadOptions()))


@pytest.mark.filterwarnings("ignore:.*temporary file")
def test_compressed_images_are_unpacked_into_a_temporary_file_with_a_warning(
    tmp_path: Path,
) -> None:
    path = tmp_path / "data.npz"
    np.savez_compressed(path, **arrays())
    with pytest.warns(UserWarning, match="x_test of .*it is compressed.*np.savez"):
        mapped = npz.load(str(path), MAPPED)
    assert isinstance(mapped.train.x, MappedImages)
    equal(mapped, npz.load(str(path), LoadOptions()))


def test_large_resized_images_lie_in_a_temporary_file(tmp_path: Path) -> None:
    path = write(tmp_path / "data.npz", arrays())
    mapped = npz.load(path, LoadOptions(size=(8, 9), in_memory=0))
    assert isinstance(mapped.train.x, MappedImages)
    assert mapped.train.image_shape == (3, 8, 9)
    equal(mapped, npz.load(path, LoadOptions(size=(8, 9))))


def test_column_major_images_are_refused_where_they_are_large(tmp_path: Path) -> None:
    parts = arrays()
    parts["x_train"] = np.asfortranarray(parts["x_train"])
    path = write(tmp_path / "data.npz", parts)
    with pytest.raises(DataError, match=r"np\.ascontiguousarray\(x_train\)"):
        npz.load(path, MAPPED)
    assert np.array_equal(npz.load(path, LoadOptions()).train.x.numpy(), parts["x_train"])


def test_a_disk_without_room_for_the_copy_is_said_so_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = shutil.disk_usage(tmp_path)._replace(free=100)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: free)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def never() -> Iterator[Tensor]:
        raise AssertionError("nothing should be read")
        yield

    with pytest.raises(DataError, match=r"temporary file of 20\.00 GB.*TMPDIR"):
        spool(never(), torch.float32, (5_000_000, 100, 10, 1))


def test_a_disk_that_fills_up_is_an_error_and_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def full() -> Iterator[Tensor]:
        yield torch.zeros(1, 4, 4, 1)
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(DataError, match="No space left on device.*TMPDIR"):
        spool(full(), torch.float32, (2, 4, 4, 1))
    assert list(tmp_path.iterdir()) == []


def test_a_temporary_file_is_gone_when_its_tensor_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    x = spool(iter([torch.arange(6.0).view(2, 3, 1, 1)]), torch.float32, (2, 3, 1, 1))
    assert x.sum() == 15
    del x
    assert list(tmp_path.iterdir()) == []


# --- damaged and crafted files --------------------------------------------------------------------


def header(shape: str, kind: str = "|u1", order: str = "False", version: int = 1) -> bytes:
    text = f"{{'descr': {kind!r}, 'fortran_order': {order}, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<H", len(text)) + text


CONTENT = bytes(30 * 6 * 5 * 3)


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize(
    ("member", "message"),
    [
        (header("(1099511627776, 1024, 1024, 3)") + CONTENT, "does not fill 2700 bytes"),
        (header("(4611686018427387904, 4, 4, 3)") + CONTENT, "does not fill"),
        (header("(-30, -6, 5, 3)") + CONTENT, "does not fill"),
        (header("(30, 6, 5, 3)") + CONTENT[:-1], "does not fill 2699 bytes"),
        (header("(30, 6, 5, 3)") + CONTENT + b"!", "does not fill 2701 bytes"),
        (header("(30, 6, 5, 3)", "<f4") + CONTENT, "float32 does not fill"),
        (header("(30, 6, 5, 3)", "|O") + CONTENT, "no objects"),
        (header("(30, 6, 5, 3)", "|V999999999999") + CONTENT, "cannot be read"),
        (header("(30, 6, 5, 3)", version=9) + CONTENT, r"cannot be read.*\(9, 0\)"),
        (header("(30, 6, 5, __import__('os'))") + CONTENT, "cannot be read"),
        (header("(30, 6, 5, 3)" + " " * 20_000) + CONTENT, "cannot be read"),
        (b"\x80\x04N.", "cannot be read"),
        (b"", "cannot be read"),
    ],
)
def test_an_array_whose_header_lies_is_refused(
    tmp_path: Path, member: bytes, message: str, compressed: bool
) -> None:
    path = tmp_path / "data.npz"
    np.savez(path, **{name: a for name, a in arrays().items() if name != "x_train"})
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED if compressed else 0) as archive:
        archive.writestr("x_train.npy", member)
    for options in (MAPPED, LoadOptions()):
        with pytest.raises(DataError, match=f"x_train.*{message}|x_train must be"):
            npz.load(str(path), options)


def test_an_npy_file_whose_header_lies_is_refused(tmp_path: Path) -> None:
    write_folder(tmp_path / "data", arrays())
    (tmp_path / "data" / "x_test.npy").write_bytes(header("(10, 6, 5, 3)") + bytes(5))
    with pytest.raises(DataError, match=r"x_test.*does not fill 5 bytes"):
        npz.load(str(tmp_path / "data"), MAPPED)


def test_a_folder_of_arrays_that_lacks_one_is_refused(tmp_path: Path) -> None:
    write_folder(tmp_path / "data", arrays())
    (tmp_path / "data" / "y_test.npy").unlink()
    with pytest.raises(DataError, match="lacks y_test; it holds x_test, x_train, y_train"):
        npz.load(str(tmp_path / "data"), MAPPED)


def test_class_names_of_absurd_size_are_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    np.savez_compressed(path, classes=np.zeros(3, dtype="<U9000000"), **arrays())
    with pytest.raises(DataError, match="classes must be a list of names.*U9000000"):
        npz.load(str(path), LoadOptions())


def test_a_flipped_pixel_in_the_file_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    parts = arrays()
    write(path, parts)
    content = path.read_bytes()
    place = content.index(parts["x_train"].tobytes()) + 1000
    path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
    with pytest.raises(DataError, match="x_train.*Bad CRC-32"):
        npz.load(str(path), MAPPED)


def test_a_file_cut_short_anywhere_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    write(path, arrays())
    whole = path.read_bytes()
    for length in [*range(0, len(whole), 97), len(whole) - 1]:
        path.write_bytes(whole[:length])
        with pytest.raises(DataError, match=r"data\.npz"):
            npz.load(str(path), MAPPED)


def test_damaged_bytes_load_or_are_refused_but_never_fail_otherwise(tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    write(path, arrays())
    whole = path.read_bytes()
    # Damage to the headers and the archive's directory, where the numbers are.
    places = [i for i in range(len(whole)) if whole[max(0, i - 160) : i + 160].count(0) > 20]
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(300):
        damaged = bytearray(whole)
        for place in rng.choice(places, 2):
            damaged[place] ^= int(rng.integers(1, 256))
        path.write_bytes(bytes(damaged))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                npz.load(str(path), MAPPED).train.x.sum()
        except DataError:
            refused += 1
    assert refused > 100


# --- a run on them --------------------------------------------------------------------------------


def test_a_run_on_images_in_a_file_equals_one_in_memory(tmp_path: Path) -> None:
    path = write(tmp_path / "data.npz", {k: np.tile(a, (9,) + (1,) * (a.ndim - 1))
                                         for k, a in arrays().items()})  # fmt: skip
    weights = []
    for options in (MAPPED, LoadOptions()):
        splits = npz.load(path, options)
        out = tmp_path / f"run{len(weights)}"
        config = complete(run_options(path, out))
        open_session(config, splits).run(Simulation(splits.train))
        weights.append((out / "model.safetensors").read_bytes())
        weights.append((out / "labels.csv").read_bytes())
    assert weights[:2] == weights[2:]


def run_options(path: str, out: Path) -> Any:
    import alprune

    return alprune.RunConfig(
        dataset=f"npz:{path}", model="tiny_learner:build", method="3sp", steps=2, initial=12,
        query_size=6, score_subset=40, min_channels=2, device="cpu", precision="fp32", pad=1,
        out=str(out),
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="peak memory is read from getrusage")
def test_scoring_a_million_images_in_a_file_adds_less_than_500_mb(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    command = [sys.executable, str(BENCH), "--folder", str(tmp_path), "--json", str(report)]
    subprocess.run(command, check=True)
    outcome = json.loads(report.read_text())
    assert outcome["points"] == outcome["scored"] == 1_000_000
    assert outcome["added_mb"] < 500
    assert outcome["added_from_start_mb"] < 500

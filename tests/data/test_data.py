import gzip
import hashlib
import pickle
import socket
import socketserver
import struct
import threading
import urllib.error
import urllib.request
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from alprune.data import DATASETS, Dataset, Splits, downloads, load, make_splits, source
from alprune.data.dataset import LoadOptions, content_digest
from alprune.data.resizing import resize
from alprune.data.statistics import channel_statistics
from alprune.errors import ConfigError, DataError


def pixels(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def dataset(x: Tensor | None = None, **changes: Any) -> Dataset:
    x = torch.from_numpy(pixels(6, 4, 5, 3)) if x is None else x
    parts: dict[str, Any] = {
        "x": x,
        "y": torch.arange(len(x)) % 2,
        "classes": ("a", "b"),
        "mean": (0.5,) * x.shape[-1],
        "std": (0.2,) * x.shape[-1],
        "flip": False,
        "digest": "0",
    }
    return Dataset(**(parts | changes))


# --- Dataset, Splits and what is computed from images ------------------------------------------


def test_a_data_set_knows_its_length_and_its_image_shape() -> None:
    data = dataset()
    assert len(data) == 6
    assert data.image_shape == (3, 4, 5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": torch.zeros(6, 4, 5, 3, dtype=torch.int64)}, "x must be uint8 or float32.*int64"),
        ({"y": torch.zeros(5, dtype=torch.int64)}, r"one int64 label an image, \(6,\).*\(5,\)"),
        ({"y": torch.zeros(6)}, "int64.*float32"),
        ({"y": torch.tensor([0, 1, 2, 0, 1, 0])}, r"labels 0\.\.2.*0\.\.1"),
        ({"y": torch.tensor([0, 1, -2, 0, 1, 0])}, r"labels -2\.\.1"),
        ({"classes": ("a",)}, r"labels 0\.\.1; allowed for 1 classes"),
        ({"classes": ("a", "a")}, "different names"),
        ({"mean": (0.5,)}, "mean must be 3 finite numbers"),
        ({"std": (0.5, 0.5, float("nan"))}, "std must be 3 finite numbers"),
        ({"std": (0.5, 0.5, 0.0)}, "std must be positive"),
    ],
)
def test_a_data_set_whose_parts_do_not_fit_is_refused(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        dataset(**changes)


def test_images_of_a_wrong_shape_or_with_nan_are_refused() -> None:
    with pytest.raises(DataError, match=r"\(n, h, w, c\)"):
        dataset(torch.zeros(6, 4, 3))
    with pytest.raises(DataError, match=r"\(n, h, w, c\)"):
        dataset(torch.zeros(6, 0, 4, 3))
    x = torch.zeros(6, 4, 4, 3)
    x[4, 1, 2, 0] = float("nan")
    with pytest.raises(DataError, match="first in image 4"):
        dataset(x)


def test_train_and_test_that_do_not_match_are_refused() -> None:
    data = dataset()
    with pytest.raises(DataError, match="classes of train and test differ"):
        Splits(data, replace(data, classes=("a", "c")))
    with pytest.raises(DataError, match="image_shape of train and test differ"):
        Splits(data, replace(data, x=data.x[:, :3]))
    with pytest.raises(DataError, match="float32"):
        Splits(data, replace(data, x=data.x.float()))


@pytest.mark.parametrize("kind", [np.uint8, np.float32])
def test_statistics_equal_numpy_in_float64(kind: type) -> None:
    x = pixels(700, 9, 7, 3).astype(kind)
    unit = 255 if kind is np.uint8 else 1
    mean, std = channel_statistics(torch.from_numpy(x))
    values = x.astype(np.float64).reshape(-1, 3) / unit
    assert mean == pytest.approx(values.mean(0), rel=1e-12)
    assert std == pytest.approx(values.std(0), rel=1e-12)


def test_statistics_of_a_large_set_come_from_ten_thousand_evenly_spaced_images() -> None:
    x = pixels(20_000, 2, 2, 1)
    mean, std = channel_statistics(torch.from_numpy(x))
    values = x[::2].astype(np.float64) / 255
    assert (mean[0], std[0]) == (pytest.approx(values.mean()), pytest.approx(values.std()))


@pytest.mark.parametrize("value", [torch.tensor(255, dtype=torch.uint8), torch.tensor(0.1)])
def test_a_channel_that_never_changes_gets_a_deviation_of_one(value: Tensor) -> None:
    _, std = channel_statistics(value.expand(50, 3, 3, 1))
    assert std == (1.0,)


def test_the_test_images_carry_the_statistics_of_the_training_images() -> None:
    x, y = torch.from_numpy(pixels(20, 4, 4, 3)), torch.arange(20) % 2
    splits = make_splits((x, y), (x // 2, y), ("a", "b"), flip=True)
    assert (splits.test.mean, splits.test.std) == channel_statistics(x)


def test_digest_is_stable_and_changes_with_pixels_labels_shape_and_type() -> None:
    x, y = torch.arange(24, dtype=torch.uint8).view(2, 2, 2, 3), torch.tensor([0, 1])
    digest = content_digest(x, y)
    assert digest == content_digest(x.clone().transpose(1, 2).transpose(1, 2), y)
    changed = x.clone()
    changed[1, 1, 1, 2] += 1
    others = [
        content_digest(changed, y),
        content_digest(x, y.flip(0)),
        content_digest(x.view(2, 2, 3, 2), y),
        content_digest(x.float(), y),
        content_digest(x.view(2, 2, 2, 3).transpose(1, 2), y),
    ]
    assert len({digest, *others}) == 6
    expected = hashlib.blake2b(
        b"|u1(2, 2, 2, 3)" + bytes(range(24)) + b"<i8(2,)" + struct.pack("<2q", 0, 1),
        digest_size=16,
    )
    assert digest == expected.hexdigest()


@pytest.mark.parametrize("c", [1, 3, 4])
@pytest.mark.parametrize("size", [(32, 32), (5, 9), (20, 6)])
def test_resizing_equals_pillows_antialiased_bilinear(c: int, size: tuple[int, int]) -> None:
    x = pixels(3, 16, 12, c)
    out = resize(torch.from_numpy(x), size)
    assert out.dtype == torch.uint8
    for image, result in zip(x, out.numpy(), strict=True):
        for channel in range(c):
            reference = Image.fromarray(image[..., channel]).resize(
                (size[1], size[0]), Image.Resampling.BILINEAR
            )
            difference = np.asarray(reference, int) - result[..., channel].astype(int)
            assert np.abs(difference).max() <= 1


def test_resizing_keeps_floats_and_leaves_the_right_size_alone() -> None:
    x = torch.full((2, 4, 4, 1), -3.5)
    assert torch.allclose(resize(x, (7, 5)), torch.full((2, 7, 5, 1), -3.5))
    assert resize(x, (4, 4)) is x
    assert resize(x, None) is x


def test_a_class_without_training_images_is_refused_by_name() -> None:
    x, y = torch.from_numpy(pixels(4, 4, 4, 3)), torch.tensor([0, 0, 2, 2])
    with pytest.raises(DataError, match="1 of 3 classes have no training image: cat"):
        make_splits((x, y), (x, y), ("ant", "cat", "dog"), flip=True)


# --- names ---------------------------------------------------------------------------------------


def test_every_source_has_a_one_line_summary() -> None:
    assert {"cifar10", "cifar100", "mnist", "fashion-mnist", "digits"} < set(DATASETS)
    for name, entry in DATASETS.items():
        assert entry.summary and "\n" not in entry.summary, name


def test_an_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'cifar10'"):
        load("cifar-10")


@pytest.mark.parametrize("name", ["npz:", "folder:", "npz:PATH"])
def test_a_prefix_without_a_path_is_refused(name: str) -> None:
    with pytest.raises(DataError, match="needs a path"):
        load(name)


def test_a_function_of_the_users_own_is_loaded_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_images.py").write_text(
        "import torch\n"
        "from alprune.data import make_splits\n"
        "def blobs():\n"
        "    part = torch.rand(8, 4, 4, 3), torch.arange(8) % 2\n"
        "    return make_splits(part, part, ('a', 'b'), flip=True)\n"
        "def wrong():\n"
        "    return 3\n"
    )
    monkeypatch.chdir(tmp_path)
    assert load("my_images:blobs").train.image_shape == (3, 4, 4)
    assert source("my_images:blobs").summary == "the function my_images:blobs"
    with pytest.raises(DataError, match="returned int; expected alprune.data.Splits"):
        load("my_images:wrong")


@pytest.mark.parametrize("size", [(0, 3), (3,)])
def test_an_impossible_size_is_refused(size: Any) -> None:
    with pytest.raises(DataError, match="size must be"):
        load("digits", size=size)


# --- digits --------------------------------------------------------------------------------------


def test_digits_are_split_the_same_way_each_time_and_stratified() -> None:
    splits = load("digits")
    assert (len(splits.train), len(splits.test)) == (1297, 500)
    assert splits.train.image_shape == (1, 8, 8)
    assert splits.train.x.dtype == torch.uint8
    assert splits.train.classes == tuple("0123456789")
    assert splits.train.flip is False
    assert splits.train.digest == load("digits").train.digest
    for data in (splits.train, splits.test):
        share = data.y.bincount() / len(data)
        whole = (splits.train.y.bincount() + splits.test.y.bincount()) / 1797
        assert (share - whole).abs().max() < 1.5 / len(data)


def test_digits_hold_every_image_of_scikit_learn_once_with_its_label() -> None:
    from sklearn.datasets import load_digits

    splits, bunch = load("digits"), load_digits()
    ours = sorted(
        (label, tuple((image.flatten().double() * 16 / 255).round().int().tolist()))
        for data in (splits.train, splits.test)
        for image, label in zip(data.x, data.y.tolist(), strict=True)
    )
    theirs = sorted(
        (int(label), tuple(int(value) for value in image.flatten()))
        for image, label in zip(bunch.images, bunch.target, strict=True)
    )
    assert ours == theirs


def test_digits_are_resized_to_the_learners_input() -> None:
    splits = load("digits", size=(32, 32))
    assert splits.train.image_shape == splits.test.image_shape == (1, 32, 32)
    assert splits.train.x.max() > 250


# --- npz -----------------------------------------------------------------------------------------


def arrays(**changes: Any) -> dict[str, Any]:
    parts: dict[str, Any] = {
        "x_train": pixels(12, 6, 5, 3),
        "y_train": np.arange(12) % 3,
        "x_test": pixels(6, 6, 5, 3, seed=1),
        "y_test": np.arange(6) % 3,
    }
    return {name: value for name, value in (parts | changes).items() if value is not None}


def write_npz(where: Path, **changes: Any) -> str:
    np.savez(where / "data.npz", **arrays(**changes))
    return f"npz:{where / 'data.npz'}"


def test_npz_images_and_labels_are_loaded_as_they_are(tmp_path: Path) -> None:
    splits = load(write_npz(tmp_path))
    expected = arrays()
    assert np.array_equal(splits.train.x.numpy(), expected["x_train"])
    assert np.array_equal(splits.test.y.numpy(), expected["y_test"])
    assert splits.train.classes == ("0", "1", "2")
    assert splits.train.flip is True


@pytest.mark.parametrize("shape", [(6, 5), (6, 5, 1)])
@pytest.mark.parametrize("kind", [np.uint8, np.float16, np.float32, np.float64, ">f4"])
def test_npz_takes_grey_images_with_or_without_a_channel_and_any_float(
    tmp_path: Path, shape: tuple[int, ...], kind: Any
) -> None:
    x_train, x_test = pixels(12, *shape).astype(kind), pixels(6, *shape).astype(kind)
    splits = load(write_npz(tmp_path, x_train=x_train, x_test=x_test))
    assert splits.train.image_shape == (1, 6, 5)
    assert splits.train.x.dtype == (torch.uint8 if kind is np.uint8 else torch.float32)
    assert np.array_equal(splits.train.x.numpy().reshape(x_train.shape), x_train)
    assert splits.train.flip is False


@pytest.mark.parametrize("kind", [np.uint8, np.int8, np.int32, np.uint64])
def test_npz_takes_labels_of_any_integer_type(tmp_path: Path, kind: type) -> None:
    y = (np.arange(12) % 3).astype(kind)
    assert load(write_npz(tmp_path, y_train=y)).train.y.tolist() == y.tolist()


def test_npz_class_names_and_flip_are_taken_from_the_file(tmp_path: Path) -> None:
    names = np.array(["ant", "cat", "dog"])
    splits = load(write_npz(tmp_path, classes=names, flip=np.array(False)))
    assert splits.train.classes == ("ant", "cat", "dog")
    assert splits.train.flip is False


def test_npz_images_are_resized_also_when_train_and_test_differ(tmp_path: Path) -> None:
    name = write_npz(tmp_path, x_test=pixels(6, 9, 9, 3))
    splits = load(name, size=(8, 8))
    assert splits.train.image_shape == splits.test.image_shape == (3, 8, 8)
    with pytest.raises(DataError, match=r"x_train are \(6, 5, 3\) and of x_test \(9, 9, 3\)"):
        load(name)


NAN = pixels(12, 6, 5, 3).astype(np.float32)
NAN[7, 0, 0, 0] = np.nan
HUGE = pixels(12, 6, 5, 3).astype(np.float64)
HUGE[2, 0, 0, 0] = 1e300


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"y_test": None}, "lacks y_test; it holds x_train, y_train, x_test"),
        ({"x_train": pixels(12, 3, 6, 5)}, r"x_train must be .*\(12, 3, 6, 5\).*channels first"),
        ({"x_test": pixels(6, 6, 5, 2)}, r"x_test must be .*got \(6, 6, 5, 2\)\.$"),
        ({"x_train": pixels(12, 30)}, r"x_train must be .*got \(12, 30\)"),
        ({"x_train": pixels(12, 6, 5, 3).astype(np.int64)}, "x_train must be uint8.*got int64"),
        ({"x_train": pixels(12, 6, 5, 3) > 9}, "x_train must be uint8.*got bool"),
        ({"x_train": pixels(12, 6, 5, 3) * 1j}, "x_train must be uint8.*got complex"),
        ({"x_train": pixels(11, 6, 5, 3)}, "x_train has 11 images but y_train has 12 labels"),
        ({"x_test": pixels(6, 6, 5)}, r"x_train are \(6, 5, 3\) and of x_test \(6, 5, 1\)"),
        ({"x_train": NAN, "x_test": NAN[:6]}, "x_train holds NaN.*first in image 7"),
        ({"x_train": HUGE, "x_test": NAN[:6]}, "x_train holds NaN or infinite.*image 2"),
        ({"x_test": pixels(6, 6, 5, 3).astype(float)}, "different types"),
        ({"y_train": np.arange(12) % 3 - 1}, "y_train has negative labels .*-1"),
        ({"y_test": np.arange(6) % 3 - 1}, "y_test has negative labels .*-1"),
        ({"y_test": np.arange(6)}, r"y_test has labels 0\.\.5; allowed for 3 classes: 0\.\.2"),
        ({"y_train": np.arange(12) % 3 * 2}, "3 different labels but the highest is 4"),
        ({"y_train": np.full(12, 2**62)}, "y_train has labels up to 4611686018427387904"),
        ({"y_train": np.arange(12) / 4}, "y_train must hold one integer label.*float64"),
        ({"y_train": np.eye(12, dtype=int)}, r"y_train must hold.*\(12, 12\)"),
        ({"y_train": np.zeros(12, int)}, "at least two classes"),
        ({"x_test": pixels(0, 6, 5, 3), "y_test": np.zeros(0, int)}, "x_test must hold images"),
        ({"x_train": pixels(0, 6, 5, 3), "y_train": np.zeros(0, int)}, "x_train must hold images"),
        ({"classes": np.array(["a", "b"])}, r"y_train has labels 0\.\.2; allowed for 2"),
        ({"classes": np.array(["a", "b", "c", "d"])}, "no training image: d"),
        ({"classes": np.array(["a", "b", "a"])}, "different names; of several: a"),
        ({"classes": np.arange(3)}, "classes must be a list of names.*int64"),
        ({"flip": np.array("no")}, "flip must be one bool"),
        ({"y_train": np.array([0, 1, 2] * 4, dtype=object)}, "'y_train'.*cannot be read"),
    ],
)
def test_npz_with_a_wrong_array_is_refused_by_its_name(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        load(write_npz(tmp_path, **changes))


class Trap:
    """Unpickling it would create a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


def test_npz_never_runs_a_pickle(tmp_path: Path) -> None:
    trap = np.array([Trap(tmp_path / "sprung")], dtype=object)
    name = write_npz(tmp_path, x_train=trap)
    with pytest.raises(DataError, match="'x_train'.*no objects"):
        load(name)
    (tmp_path / "data.npz").write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
    with pytest.raises(DataError, match="not a complete .npz file"):
        load(name)
    assert not (tmp_path / "sprung").exists()


def test_npz_that_is_missing_a_folder_or_a_bare_array_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no file .*absent.npz"):
        load(f"npz:{tmp_path / 'absent.npz'}")
    with pytest.raises(DataError, match="there is no file"):
        load(f"npz:{tmp_path}")
    np.save(tmp_path / "bare.npy", pixels(3))
    with pytest.raises(DataError, match="one bare array"):
        load(f"npz:{tmp_path / 'bare.npy'}")


def test_npz_cut_short_anywhere_is_refused(tmp_path: Path) -> None:
    name = write_npz(tmp_path)
    whole = (tmp_path / "data.npz").read_bytes()
    for length in [*range(0, len(whole), 97), len(whole) - 1]:
        (tmp_path / "data.npz").write_bytes(whole[:length])
        with pytest.raises(DataError, match=r"data\.npz"):
            load(name)


def test_npz_with_flipped_bytes_loads_or_is_refused_but_never_fails_otherwise(
    tmp_path: Path,
) -> None:
    name = write_npz(tmp_path)
    whole = (tmp_path / "data.npz").read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(150):
        damaged = bytearray(whole)
        for place in rng.integers(0, len(whole), 4):
            damaged[place] ^= int(rng.integers(1, 256))
        (tmp_path / "data.npz").write_bytes(bytes(damaged))
        try:
            load(name)
        except DataError:
            refused += 1
    assert refused > 50


# --- downloads, without a network ----------------------------------------------------------------


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **options: Any) -> None:
        raise urllib.error.URLError("no network in this test")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)


DOWNLOADS = {
    "cifar10": "cifar-10-python.tar.gz",
    "cifar100": "cifar-100-python.tar.gz",
    "mnist": "MNIST/raw",
    "fashion-mnist": "FashionMNIST/raw",
}


@pytest.mark.parametrize("name", DOWNLOADS)
def test_without_network_and_cache_the_error_says_what_to_do(
    name: str, tmp_path: Path, offline: None
) -> None:
    with pytest.raises(DataError) as caught:
        load(name, root=tmp_path / "cache")
    message = str(caught.value)
    for part in (str(tmp_path / "cache"), DOWNLOADS[name], "no network in this test", "digits"):
        assert part in message
    assert "npz:PATH and folder:PATH" in message
    assert "damaged" not in message.split("Without a network")[0]


def test_a_damaged_archive_is_named(tmp_path: Path, offline: None) -> None:
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(b"\x1f\x8b" + b"0" * 98)
    with pytest.raises(DataError, match=r"cifar-10-python.tar.gz is there but .*\(100 bytes"):
        load("cifar10", root=tmp_path)
    assert (tmp_path / "cifar-10-python.tar.gz").stat().st_size == 100


def test_a_cache_folder_that_cannot_be_made_is_an_error_of_the_data(
    tmp_path: Path, offline: None
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="CIFAR10 could not be loaded"):
        load("cifar10", root=tmp_path / "file" / "below")


def test_a_data_set_is_downloaded_by_one_process_at_a_time(tmp_path: Path) -> None:
    began, go = threading.Event(), threading.Event()
    inside, most = [], []

    class Kind:
        data = np.zeros((2, 4, 4, 3), np.uint8)
        targets, classes = (0, 1), ("a", "b")

        def __init__(self, root: Path, train: bool, download: bool) -> None:
            inside.append(train)
            most.append(len(inside))
            began.set()
            go.wait(200)
            inside.pop()

    what = downloads._Download(Kind, (), ".", flip=False), LoadOptions(root=tmp_path / "new")
    other = threading.Thread(target=downloads._load, args=what)
    other.start()
    began.wait(200)
    threading.Timer(0.2, go.set).start()
    with pytest.warns(UserWarning, match="another process is downloading into"):
        assert len(downloads._load(*what).train) == 2
    other.join()
    assert most == [1] * 4


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """A server on the loopback: `behaviour["send"]` is the body of a promised 1000 bytes."""
    behaviour: dict[str, Any] = {"send": None, "requests": 0}
    done = threading.Event()

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            behaviour["requests"] += 1
            head = self.rfile.readline().startswith(b"HEAD")
            if behaviour["send"] is None:
                done.wait(60)  # accept, and never answer
                return
            self.wfile.write(b"HTTP/1.0 200 OK\r\nContent-Length: 1000\r\n\r\n")
            self.wfile.write(b"" if head else behaviour["send"])

    class Server(socketserver.ThreadingTCPServer):
        allow_reuse_address = True
        daemon_threads = True

    with Server(("127.0.0.1", 0), Handler) as listening:
        thread = threading.Thread(target=listening.serve_forever, daemon=True)
        thread.start()
        url = f"http://127.0.0.1:{listening.server_address[1]}/cifar-10-python.tar.gz"
        monkeypatch.setattr("torchvision.datasets.CIFAR10.url", url)
        monkeypatch.setenv("no_proxy", "*")
        yield behaviour
        done.set()
        listening.shutdown()
        thread.join()


def test_a_server_that_never_answers_is_given_up(
    tmp_path: Path, server: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloads, "SILENCE_S", 0.2)
    with pytest.raises(DataError, match="CIFAR10 could not be loaded.*timed out"):
        load("cifar10", root=tmp_path)
    assert server["requests"] > 0
    assert socket.getdefaulttimeout() is None


def test_a_download_cut_short_is_named(tmp_path: Path, server: dict[str, Any]) -> None:
    server["send"] = b"x" * 10
    with pytest.raises(DataError, match=r"cifar-10-python.tar.gz is there but .*\(10 bytes"):
        load("cifar10", root=tmp_path)


def idx(values: np.ndarray) -> bytes:
    return (
        struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape) + values.tobytes()
    )


def write_mnist(raw: Path) -> dict[str, np.ndarray]:
    raw.mkdir(parents=True)
    parts = {
        "train-images-idx3-ubyte": pixels(20, 28, 28),
        "train-labels-idx1-ubyte": (np.arange(20) % 10).astype(np.uint8),
        "t10k-images-idx3-ubyte": pixels(10, 28, 28, seed=1),
        "t10k-labels-idx1-ubyte": np.arange(10, dtype=np.uint8),
    }
    for name, values in parts.items():
        (raw / name).write_bytes(idx(values))
    return parts


@pytest.mark.parametrize(
    ("name", "folder", "flip"), [("mnist", "MNIST", False), ("fashion-mnist", "FashionMNIST", True)]
)
def test_cached_mnist_is_loaded_without_a_network(
    name: str, folder: str, flip: bool, tmp_path: Path, offline: None, capsys: Any
) -> None:
    parts = write_mnist(tmp_path / folder / "raw")
    splits = load(name, root=tmp_path)
    assert np.array_equal(splits.train.x[..., 0].numpy(), parts["train-images-idx3-ubyte"])
    assert np.array_equal(splits.test.y.numpy(), parts["t10k-labels-idx1-ubyte"])
    assert len(splits.train.classes) == 10
    assert splits.train.flip is flip
    assert capsys.readouterr().out == ""
    assert load(name, root=tmp_path, size=(32, 32)).test.image_shape == (1, 32, 32)


def test_archives_put_by_hand_are_used(
    tmp_path: Path, offline: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = tmp_path / "MNIST" / "raw"
    resources = []
    for name, values in write_mnist(raw).items():
        (raw / name).unlink()
        (raw / f"{name}.gz").write_bytes(gzip.compress(idx(values)))
        resources.append((f"{name}.gz", hashlib.md5((raw / f"{name}.gz").read_bytes()).hexdigest()))
    monkeypatch.setattr("torchvision.datasets.MNIST.resources", resources)
    assert len(load("mnist", root=tmp_path).train) == 20


def test_a_damaged_cache_is_an_error_of_the_data(tmp_path: Path, offline: None) -> None:
    write_mnist(tmp_path / "MNIST" / "raw")
    images = tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte"
    images.write_bytes(images.read_bytes()[:5000])
    with pytest.raises(DataError, match="MNIST could not be loaded"):
        load("mnist", root=tmp_path)


def fake_cifar(kind: Any, root: Path, label_key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    where = root / kind.base_folder
    where.mkdir(parents=True)

    def write(name: str, content: dict[str, Any]) -> list[str]:
        (where / name).write_bytes(pickle.dumps(content))
        return [name, hashlib.md5((where / name).read_bytes()).hexdigest()]

    def batch(n: int, seed: int) -> dict[str, Any]:
        return {"data": pixels(n, 3072, seed=seed), label_key: [i % 10 for i in range(n)]}

    names = [f"kind {i}" for i in range(10)]
    meta = write("meta", {kind.meta["key"]: names})
    monkeypatch.setattr(kind, "train_list", [write("a", batch(20, 0)), write("b", batch(10, 1))])
    monkeypatch.setattr(kind, "test_list", [write("c", batch(10, 2))])
    monkeypatch.setattr(kind, "meta", {**kind.meta, "filename": "meta", "md5": meta[1]})


@pytest.mark.parametrize(
    ("name", "kind", "label_key"),
    [("cifar10", "CIFAR10", "labels"), ("cifar100", "CIFAR100", "fine_labels")],
)
def test_cached_cifar_is_loaded_without_a_network(
    name: str,
    kind: str,
    label_key: str,
    tmp_path: Path,
    offline: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import torchvision  # takes seconds, of each process that collects

    fake_cifar(getattr(torchvision.datasets, kind), tmp_path, label_key, monkeypatch)
    monkeypatch.setenv("ALPRUNE_DATA", str(tmp_path))
    splits = load(name)
    assert (len(splits.train), len(splits.test)) == (30, 10)
    assert splits.train.image_shape == (3, 32, 32)
    first = pixels(20, 3072)[0].reshape(3, 32, 32)  # stored plane by plane
    assert np.array_equal(splits.train.x[0].numpy(), first.transpose(1, 2, 0))
    assert splits.train.classes[3] == "kind 3"
    assert splits.train.flip is True


# --- units ---


def _npz(tmp_path: Path, x_train: np.ndarray, x_test: np.ndarray) -> str:
    y = np.arange(len(x_train)) % 2
    np.savez(tmp_path / "d.npz", x_train=x_train, y_train=y, x_test=x_test, y_test=y)
    return f"npz:{tmp_path / 'd.npz'}"


def _units() -> np.ndarray:
    return np.random.default_rng(0).random((20, 6, 6, 3))


@pytest.mark.parametrize(
    ("train", "test"),
    [
        (lambda x: x, lambda x: x * 255),
        (lambda x: x * 255, lambda x: x),
        (lambda x: x * 4095, lambda x: x * 255),
        (lambda x: (x * 255).astype(np.uint8), lambda x: (x > 0.5).astype(np.uint8)),
        (lambda x: x, lambda x: (x - 0.5) / 0.05),
    ],
)
def test_test_images_in_another_unit_are_warned_about(
    tmp_path: Path, train: Any, test: Any
) -> None:
    with pytest.warns(UserWarning, match="as if these were in another unit"):
        load(_npz(tmp_path, train(_units()), test(_units())))


def test_darker_test_images_are_in_the_same_unit(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load(_npz(tmp_path, _units(), _units() * 0.6))


def test_bytes_to_train_on_and_floats_to_test_on_are_refused_with_what_to_do(
    tmp_path: Path,
) -> None:
    with pytest.raises(DataError, match="different types.*both as floats in one unit"):
        load(_npz(tmp_path, (_units() * 255).astype(np.uint8), _units()))


@pytest.mark.parametrize(
    ("dtype", "advice"),
    [
        (np.uint16, r"astype\(np.float32\) keeps all values; \(x_train >> 8\).astype\(np.uint8\)"),
        (np.int16, r"astype\(np.float32\) keeps all values. Only where no value is above 255"),
        (bool, r"astype\(np.uint8\) \* 255"),
    ],
)
def test_advice_about_a_type_does_not_destroy_the_values(
    tmp_path: Path, dtype: Any, advice: str
) -> None:
    with pytest.raises(DataError, match=advice):
        load(_npz(tmp_path, _units().astype(dtype), _units()))

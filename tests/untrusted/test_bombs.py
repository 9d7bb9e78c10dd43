"""A small file that asks for gigabytes or hours is refused before any of it is spent."""

import io
import json
import re
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from attacks import run_attacks
from tiny_run import options
from torch import nn

import alprune
from alprune.data.shards.tar import list_samples
from alprune.errors import DataError, ModelError
from alprune.models.memory import check_memory

MEBIBYTES = 700  # that an attack may take: its message, and what a small network takes


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("run") / "run"
    alprune.run(options(path, model="lenet-5-caffe", steps=0, initial_epochs=0.1))
    return path


def with_shape(run: Path, shape: list[int]) -> None:
    for name, key in (("plan.json", "example_shape"), ("inputs.json", "image_shape")):
        record = json.loads((run / name).read_text())
        record[key] = shape
        if key == "image_shape":
            record |= {"mean": [0.5] * shape[0], "std": [0.5] * shape[0]}
        (run / name).write_text(json.dumps(record))


def widths(**layers: tuple[int, int]) -> str:
    plan = alprune.Plan.of_widths((3, 8, 8), layers)
    return (
        "from torch import nn; from alprune import rebuild; "
        "net = nn.Sequential(nn.Conv2d(3, 4, 7), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 7)); "
        f"rebuild(net, Plan.from_json({plan.to_json()!r}))"
    )


# Code, and what its message says.
ATTACKS = {
    "a kernel of 7 x 7": (widths(**{"0": (2**13, 2**14)}), "widths make 6,576,668,672 weights"),
    "many layers": (
        widths(**{"0": (2**9, 2**10), "2": (2**10, 2**9)}), "widths make"
    ),
    "a normalisation": (widths(**{"1": (1, 2**27)}), "widths make 134,217,728 weights"),
    "an input for a network that is there": (
        "from alprune import build, rebuild; net = build('vgg19', 10); "
        "rebuild(net, Plan('channels', (3, 4096, 4096)))",
        "too large to build",
    ),
    "images of 4,700 x 4,700": ("from alprune import load_learner; load_learner('wide')",
                                "too large to build.*GiB"),
    "images of 50,000 channels": ("from alprune import load_learner; load_learner('deep')",
                                  "no layer takes images of 50,000 channels"),
}  # fmt: skip


@pytest.mark.slow
def test_plans_and_shapes_that_ask_for_gigabytes(whole: Path, tmp_path: Path) -> None:
    for name, shape in (("wide", [1, 4700, 4700]), ("deep", [50_000, 36, 36])):
        shutil.copytree(whole, tmp_path / name)
        with_shape(tmp_path / name, shape)
    outcomes = run_attacks([code for code, _ in ATTACKS.values()], tmp_path)
    for (name, (_, message)), outcome in zip(ATTACKS.items(), outcomes, strict=True):
        assert not outcome.said.startswith("CRASH"), (name, outcome)

        assert re.search(message, outcome.said, re.DOTALL), (name, outcome)
        assert outcome.peak_mb < MEBIBYTES, (name, outcome)


def test_usual_sizes_are_let_pass_without_being_tried() -> None:
    def never() -> torch.nn.Module:
        raise AssertionError("this is built twice")

    check_memory(never, (3, 224, 224), 1000)
    with pytest.raises(ModelError, match="cannot be tried out"):
        check_memory(never, (3, 1024, 1024))
    check_memory(lambda: alprune.build("resnet20", 10), (3, 600, 600))  # large, and fits


@pytest.mark.parametrize(
    ("make", "shape", "message"),
    [
        (lambda: nn.Conv2d(3, 64, 3, padding=1), (3, 2048, 2048), "one tensor alone .* 2.0 GiB"),
        (lambda: nn.Sequential(*(nn.Linear(2**14, 2**14) for _ in range(5))), (1,),
         "its weights would take 5.0 GiB"),
    ],
)  # fmt: skip
def test_what_takes_gigabytes_is_refused_without_being_made(
    make: Callable[[], nn.Module], shape: tuple[int, ...], message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        check_memory(make, shape, classes=5000)


# --- tar files ---


def header(name: str, kind: bytes, size: int) -> bytes:
    member = tarfile.TarInfo(name)
    member.type = kind
    block = bytearray(member.tobuf(tarfile.GNU_FORMAT))
    number = size.to_bytes(11, "big", signed=True)
    block[124:136] = (b"\xff" if size < 0 else b"\x80") + number
    total = sum(block[:148]) + 8 * 32 + sum(block[156:])
    block[148:156] = b"%06o\0 " % total
    return bytes(block)


def a_file(name: str, content: bytes) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        member = tarfile.TarInfo(name)
        member.size = len(content)
        tar.addfile(member, io.BytesIO(content))
    return out.getvalue()[: 512 + -(-len(content) // 512) * 512]


def global_records(count: int) -> bytes:
    text = b"".join(b"%d k%05d=x\n" % (12, i) for i in range(count))
    return header("records", b"g", len(text)) + text + b"\0" * (-len(text) % 512)


def record(text: bytes) -> bytes:
    return header("record", b"x", len(text)) + text + b"\0" * (-len(text) % 512)


END = b"\0" * 1024
# Python 3.14 itself refuses negative sizes, and reads long texts by the MiB.
TOO_LONG = "states (4,294,967,296|1,048,576) bytes"
NEGATIVE = "negative size|invalid offset|is not a file of it"
TARS: dict[str, tuple[Callable[[], bytes], str]] = {
    "3,000 global headers": (lambda: global_records(1) * 3000 + END, "headers follow one another"),
    "a negative size": (lambda: header("a.png", b"0", -1024) + END, NEGATIVE),
    "a negative size that comes back to itself": (
        lambda: a_file("a.png", b"x") + header("b.png", b"0", -1536) + END, NEGATIVE),
    "a file with holes whose negative size comes back to itself": (
        lambda: a_file("a.png", b"x") + header("b.png", b"S", -1536) + END, NEGATIVE),
    "a pax header of 4 GB": (lambda: header("x", b"x", 2**32) + END, TOO_LONG),
    "a global header of 4 GB": (lambda: header("g", b"g", 2**32) + END, TOO_LONG),
    "a long name of 4 GB": (lambda: header("L", b"L", 2**32) + END, TOO_LONG),
    "a long link of 4 GB": (lambda: header("K", b"K", 2**32) + END, TOO_LONG),
    "a long name of negative size": (
        lambda: header("L", b"L", -512) + END, "states -512 bytes|invalid offset"),
    "thousands of records for every file": (
        lambda: global_records(5000) + a_file("a.png", b"x") * 9 + END, "more than 100 records"),
    "a record of more bytes than 64 bits count": (
        lambda: record(b"9" * 20 + b" path=a\n") + a_file("a.png", b"x") + END,
        "number of more than 64 bits|invalid header"),
    "a size that is not a number": (
        lambda: record(b"12 size=abc\n") + a_file("a.png", b"x") + END, "what follows at byte"),
    "a size of holes that is not a number": (
        lambda: record(b"23 GNU.sparse.size=abc\n") + a_file("a.png", b"x") + END,
        "a header states a number that is none"),
    "a file of 2^62 bytes": (
        lambda: header("a.txt", b"0", 2**62) + END, "unexpected end|Invalid|cut short"),
    "an end that takes hours to read": (
        lambda: a_file("a.png", b"x") + END, "more than 67,108,864 bytes of zeros follow"),
}  # fmt: skip


@pytest.mark.parametrize("name", TARS)
def test_a_tar_file_that_asks_for_too_much(name: str, tmp_path: Path) -> None:
    make, message = TARS[name]
    path = tmp_path / "a.tar"
    path.write_bytes(make())
    with open(path, "ab") as file:
        file.truncate(2**33)  # what a header states may be there, and cost its maker nothing
    with pytest.raises(DataError, match=message):
        list_samples(path)


def test_sound_headers_are_read_as_before(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT, pax_headers={"by": "us"}) as tar:
        for name in ("k" * 300 + ".png", "k" * 300 + ".cls"):
            member = tarfile.TarInfo(name)
            member.size, member.mtime = 3, 0.5
            tar.addfile(member, io.BytesIO(b"cat"))
    found = list_samples(path)
    assert found.labels == ["cat"] and len(found.places) == 1

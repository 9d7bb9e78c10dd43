"""What fuzz.py feeds: each parser with sound inputs to start from and words that it may know."""

import io
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from click.testing import CliRunner
from mutations import (
    PNG_KINDS,
    inside_image,
    inside_json,
    inside_npz,
    other_value,
)
from parsers_of_people import parts as parts_of_people
from parsers_of_requests import parts as parts_of_requests
from parsers_of_shards import parts as parts_of_shards
from PIL import Image

from alprune import Plan, RunConfig
from alprune.cli import main as alprune
from alprune.data import load
from alprune.errors import ConfigError, StoreError
from alprune.loop.checkpoint import decode, encode
from alprune.loop.csv_tables import read_labels
from alprune.loop.event_log import read_events
from alprune.registry import lookup

Inner = Callable[[bytes, list[bytes], random.Random], bytes]


@dataclass(frozen=True)
class Target:
    """A parser.

    Attributes:
        seeds: Sound inputs.
        words: Pieces of its language.
        parse: Reads a file; anything but an AlpruneError is a finding.
        inner: Changes an input within its container, which stays sound.
    """

    seeds: list[bytes]
    words: list[bytes]
    parse: Callable[[Path], object]
    inner: Inner | None = None


OPTIONS = list(RunConfig.__dataclass_fields__)
NUMBERS = [b"0", b"1", b"-1", b"0.5", b"nan", b"inf", b"9e999", b"9" * 5000, b"0x" + b"f" * 500]
JSON = [b"NaN", b"1e999", *NUMBERS, b"[" * 5000, b'{"a":' * 5000, b"null", b"true", b"{}", b"[]"]
JSON += [b'""', b"\xff", b"\0", b"\\ud800", b",", b'"kept"', b"\n"]
NPY = [b"(-1,)", b"(4611686018427387904, 4)", b"()", b"'|O'", b"'<f8'", b"'<U9'", b"'V0'", b"True"]
NPY += [b"[('a','<i4')]", b"(" * 300, b"'>c16'", b"\x93NUMPY", b"\x02\0", b"\x03\0", b"'<M8[s]'"]
IMAGE = [b"\xff\xd8", b"\xff\xda", b"\xff\xc2", b"\xff\xc4", b"\xff\xff", b"Exif\0\0", b"GIF89a"]
IMAGE += [b"II*\0", b"MM\0*", b"RIFF", b"WEBPVP8X", b"\0\0\0\0", b"\xff" * 8, *PNG_KINDS]
TOML = [f"\n{name} = ".encode() for name in OPTIONS] + NUMBERS
TOML += [b"''", b"'x'", b"[1]", b"{a=1}", b"1979-05-27", b"[" * 2000, b"a." * 500, b"[a]\n"]
TOML += [b'"""', b"\\u0000", b"=", b"true"]
FLAGS = [f"\n--{name}".replace("_", "-").encode() for name in OPTIONS]
ARGUMENTS = [b"\n" + number for number in NUMBERS] + [b"\na:b", b"\n", b"\n--json", b"\xff", b"\n-"]


def targets() -> dict[str, Target]:
    """Return all parsers by name."""
    config = RunConfig(budget=60, method="3sp", lr=0.1, flip=False, out="a b")
    plan = Plan("channels", (3, 8), {"a": (0, 2)}, {"a": 3}, ("a",), {"c": (3, 2)}, 0.5).to_json()
    events = (
        b'{"event": "start", "elapsed_s": 0.0, "config": {"method": "3sp"}, "initial": [1]}\n'
        b'{"event": "step", "elapsed_s": 1.5, "labelled": 2, "test_accuracy": null}\n'
    )
    checkpoint = encode({"number": 1, "state": {"weights": torch.ones(2, 3), "step": 4}})
    labels = b'index,label,class,step\n3,1,"a, b",0\n4,0,\'=x,1\n'
    return {
        "recipe": Target([config.to_toml().encode()], TOML, RunConfig.from_toml),
        "plan": Target([plan.encode()], JSON, _plan, inside_json),
        "events": Target([events], JSON, _in_folder("events.jsonl", read_events), inside_json),
        "labels": Target(
            [labels],
            [b",", b'"', b"\n", b"\r", b"'", b"=", *NUMBERS],
            _in_folder("labels.csv", read_labels),
        ),
        "checkpoint": Target([checkpoint], JSON, decode, _inside_checkpoint),
        "npz": Target(_archives(), NPY, lambda path: load(f"npz:{path}"), inside_npz),
        "image": Target(_images(), IMAGE, _image, inside_image),
        "name": Target(
            [b"3sp", b"no_module:function"],
            [b":", b".", b"a", b"\xff", b"x" * 999],
            lambda path: lookup("method", path.read_bytes().decode("latin-1"), {"3sp": 1}),
        ),
        "command line": Target(
            [b"run\n--budget\n5", b"prune\n--seed\n1", b"run\n--lr\n0.1\n--pad\n2"],
            FLAGS + ARGUMENTS,
            _command_line,
        ),
        **{name: Target(*made) for name, made in parts_of_people(JSON).items()},
        **{name: Target(*made) for name, made in parts_of_shards(JSON).items()},
        **{name: Target(*made) for name, made in parts_of_requests(JSON).items()},
    }


def _plan(path: Path) -> object:
    return Plan.from_json(path.read_text(encoding="latin-1"))


def _in_folder(name: str, read: Callable[[Path], object]) -> Callable[[Path], object]:
    def parse(path: Path) -> object:
        shutil.copyfile(path, path.parent / name)
        return read(path.parent)

    return parse


def _image(path: Path) -> object:
    tree = path.parent / "tree"
    if not tree.exists():
        for place in ("train/a", "train/b", "test/a", "test/b"):
            (tree / place).mkdir(parents=True)
            (tree / place / "0.ppm").write_bytes(b"P6 1 2 255 \0\1\2\3\4\5")
    shutil.copyfile(path, tree / "train" / "a" / "1")
    return load(f"folder:{tree}", size=(8, 8))


def _command_line(path: Path) -> object:
    """Call alprune with the input's lines; the data is missing, so no run begins."""
    words = path.read_bytes().replace(b"\0", b"").decode("utf-8", "surrogateescape").split("\n")
    missing = str(path.parent / "missing.npz")
    done = CliRunner().invoke(alprune, [*words[:9], "--dataset", f"npz:{missing}"])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    if done.exit_code not in (0, 1, 2):
        raise RuntimeError(f"exit code {done.exit_code}: {done.output[-300:]}")
    if done.exit_code == 2 or "missing.npz" not in done.stderr:
        raise ConfigError(done.output)
    return done  # all options were taken, and the data looked for


def _inside_checkpoint(content: bytes, words: list[bytes], rng: random.Random) -> bytes:
    """Pack a changed state with a checksum that fits."""
    state = {"number": 3, "state": {"step": 2, "weights": [{"$tensor": "w"}], "seen": None}}
    other = other_value(state, rng)
    try:
        return encode(other if isinstance(other, dict) else {"state": other})
    except StoreError:
        return content


def _archives() -> list[bytes]:
    arrays = {
        "x_train": np.zeros((4, 3, 3, 3), np.uint8),
        "y_train": np.arange(4) % 2,
        "x_test": np.ones((2, 3, 3, 3), np.uint8),
        "y_test": np.arange(2),
    }
    more = {"classes": np.array(["a", "b"]), "flip": np.array(True)}
    seeds = []
    for save in (np.savez, np.savez_compressed):
        for content in (arrays, arrays | more):
            buffer = io.BytesIO()
            save(buffer, **content)
            seeds.append(buffer.getvalue())
    return seeds


def _images() -> list[bytes]:
    pixels = np.random.default_rng(0).integers(0, 256, (9, 7, 4), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    frames = {"save_all": True, "append_images": [Image.new("P", (7, 9), 3)]}
    saves: list[tuple[str, str, dict[str, Any]]] = [
        ("RGB", "PNG", {"exif": exif}),
        ("RGBA", "PNG", {}),
        ("P", "PNG", {"transparency": 0}),
        ("I;16", "PNG", {}),
        ("RGB", "JPEG", {"progressive": True, "exif": exif}),
        ("CMYK", "JPEG", {}),
        ("P", "GIF", frames),
        ("RGB", "BMP", {}),
        ("RGB", "TIFF", {"compression": "tiff_lzw"}),
        ("L", "TIFF", {"compression": "tiff_adobe_deflate"}),
        ("RGBA", "WEBP", {}),
        ("RGB", "JPEG2000", {}),
        ("RGB", "PPM", {}),
        ("RGB", "AVIF", {}),
    ]
    seeds = []
    for mode, kind, options in saves:
        if mode == "I;16":
            image = Image.fromarray(pixels[..., 0].astype(np.uint16) * 256)
        else:
            image = Image.fromarray(pixels).convert(mode)
        buffer = io.BytesIO()
        try:
            image.save(buffer, kind, **options)
        except (OSError, KeyError):  # Pillow was built without it
            continue
        seeds.append(buffer.getvalue())
    return seeds

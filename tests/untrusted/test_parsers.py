"""Whatever a parser is given, it returns something sound or raises an AlpruneError."""

import io
import json
import math
import os
import shutil
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
import tomli_w
import torch
from click.testing import CliRunner
from crafted import archive, members, png
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from alprune import Plan, RunConfig
from alprune.cli import main
from alprune.data import load
from alprune.errors import AlpruneError, ConfigError, DataError, PruneError, StoreError
from alprune.loop.checkpoint import decode, encode
from alprune.loop.csv_tables import read_labels
from alprune.loop.event_log import read_events
from alprune.loop.run_folder import RunFolder
from alprune.registry import lookup

# The same examples in every run; tests/stress/fuzz.py looks for new ones.
QUICK = settings(max_examples=50, derandomize=True, database=None)

numbers = st.integers() | st.floats() | st.sampled_from([2**31, 2**63, -(2**63), 10**400, 1e300])
scalars = st.none() | st.booleans() | numbers | st.text()
documents = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@pytest.fixture(scope="module")
def where(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("parsers")


@st.composite
def damaged(draw: st.DrawFn, whole: bytes) -> bytes:
    """`whole` with some bytes overwritten, left out, repeated or put in."""
    content = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(content)))
        until = at + draw(st.integers(0, 40))
        change = draw(st.sampled_from(["cut", "put", "set", "twice", "end"]))
        if change == "cut":
            del content[at:until]
        elif change == "put":
            content[at:at] = draw(st.binary(max_size=8))
        elif change == "set":
            content[at:until] = draw(st.binary(max_size=8))
        elif change == "twice":
            content[at:at] = content[at:until]
        else:
            del content[at:]
    return bytes(content)


# --- recipes ---

options = st.dictionaries(
    st.sampled_from([entry.name for entry in fields(RunConfig)]) | st.text(max_size=8),
    documents.filter(lambda value: value is not None),
    max_size=4,
)


def as_toml(record: dict[str, Any]) -> bytes:
    try:
        return tomli_w.dumps(record).encode()
    except (TypeError, ValueError):  # null within, half characters: not to be written as TOML
        return repr(record).encode(errors="surrogatepass")


sound = RunConfig(budget=60, method="3sp", lr=0.1, flip=False, out='a\\b"c').to_toml().encode()


@QUICK
@given(st.binary() | damaged(sound) | options.map(as_toml))
def test_a_recipe_is_read_or_refused(where: Path, content: bytes) -> None:
    path = where / "recipe.toml"
    path.write_bytes(content)
    try:
        config = RunConfig.from_toml(path)
    except ConfigError:
        return
    path.write_text(config.to_toml(), encoding="utf-8")
    assert RunConfig.from_toml(path) == config


@QUICK
@given(options)
def test_options_are_taken_or_refused(where: Path, record: dict[str, Any]) -> None:
    try:
        config = RunConfig.from_mapping(record)
    except ConfigError:
        return
    assert all(getattr(config, name) == value for name, value in record.items())


# --- plans ---

plan = Plan(
    "channels", (3, 8, 8), {"a": (0, 2), "b": (1,)}, {"a": 3, "b": 2}, ("b",), {"c": (3, 2)}, 0.5
)


@st.composite
def plans(draw: st.DrawFn) -> str:
    record = json.loads(plan.to_json())
    for name in draw(st.lists(st.sampled_from(sorted(record)), max_size=2)):
        inner = record[name]
        if isinstance(inner, dict) and draw(st.booleans()):
            inner[draw(st.sampled_from([*inner, "z"]))] = draw(documents)
        else:
            record[name] = draw(documents)
    return json.dumps(record)


@QUICK
@given(st.text() | plans() | damaged(plan.to_json().encode()).map(lambda b: b.decode("latin-1")))
def test_a_plan_is_read_or_refused(text: str) -> None:
    try:
        found = Plan.from_json(text)
    except PruneError:
        return
    assert Plan.from_json(found.to_json()) == found
    assert math.prod(found.example_shape) <= 2**28


# --- events ---

lines = [
    {"event": "start", "elapsed_s": 0.0, "config": {"method": "3sp"}, "initial": [1, 2]},
    {"event": "step", "elapsed_s": 1.5, "step": 0, "labelled": 2, "test_accuracy": None},
]
record = "".join(json.dumps(line) + "\n" for line in lines).encode()


@QUICK
@given(
    st.binary()
    | damaged(record)
    | st.lists(documents).map(lambda d: "".join(json.dumps(x) + "\n" for x in d).encode())
)
def test_events_are_read_or_refused(where: Path, content: bytes) -> None:
    (where / "events.jsonl").write_bytes(content)
    try:
        events = read_events(where)
    except StoreError:
        return
    for event in events:
        assert isinstance(event["event"], str)
        assert math.isfinite(event.get("elapsed_s", 0.0))


# --- labels ---

table = b'index,label,class,step\r\n3,1,"a, b",0\r\n4,0,\'=x,1\r\n'
cells = st.lists(st.integers().map(str) | st.text(max_size=5), max_size=6).map(",".join)


@QUICK
@given(st.binary() | damaged(table) | st.lists(cells).map(lambda rows: "\n".join(rows).encode()))
def test_labels_are_read_or_left_out(where: Path, content: bytes) -> None:
    (where / "labels.csv").write_bytes(content)
    for index, (label, step) in read_labels(where).items():
        assert isinstance(index, int) and isinstance(label, int) and isinstance(step, int)


@QUICK
@given(
    st.lists(
        st.tuples(*[st.integers(0, 2**31 - 1)] * 2, st.text(), st.integers(0, 2**31 - 1)),
        unique_by=lambda row: row[0],
    )
)
def test_labels_that_were_written_are_read_back(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[int, int, str, int]]
) -> None:
    folder = RunFolder(tmp_path_factory.mktemp("labels") / "run")
    encodable = [(i, y, name.encode(errors="ignore").decode(), step) for i, y, name, step in rows]
    folder.write_labels(encodable[:1])
    folder.append_labels(encodable[1:])
    folder.close()
    assert read_labels(folder.path) == {index: (label, step) for index, label, _, step in rows}


# --- checkpoints ---

state = {"number": 1, "state": {"weights": torch.ones(2, 3), "step": 4, "name": "ä"}}
kept = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@QUICK
@given(st.binary() | damaged(encode(state)))
def test_a_checkpoint_is_read_as_it_was_or_refused(where: Path, content: bytes) -> None:
    (where / "checkpoint").write_bytes(content)
    try:
        found = decode(where / "checkpoint")
    except StoreError:
        return
    assert torch.equal(found["state"].pop("weights"), torch.ones(2, 3))
    assert found == {"number": 1, "state": {"step": 4, "name": "ä"}}


@QUICK
@given(kept)
def test_whatever_a_checkpoint_takes_it_gives_back(where: Path, value: Any) -> None:
    try:
        content = encode({"number": 0, "state": {"value": value}})
    except StoreError as error:
        assert "its key '$tensor'" in str(error)
        return
    (where / "checkpoint").write_bytes(content)
    assert decode(where / "checkpoint")["state"] == {"value": value}


# --- data ---

arrays = hnp.arrays(
    hnp.scalar_dtypes() | hnp.unicode_string_dtypes(), hnp.array_shapes(max_dims=5, max_side=5)
)


@st.composite
def archives(draw: st.DrawFn) -> bytes:
    """A sound .npz with some members replaced by arrays of any type and shape."""
    parts = {f"{name}.npy": content for name, content in members().items()}
    changed = draw(st.dictionaries(st.sampled_from([*members(), "classes", "flip"]), arrays))
    for name, array in changed.items():
        buffer = io.BytesIO()
        np.save(buffer, array, allow_pickle=False)
        parts[f"{name}.npy"] = buffer.getvalue()
    return archive({name.removesuffix(".npy"): content for name, content in parts.items()})


@QUICK
@given(st.binary() | damaged(archive(members())) | archives())
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_an_npz_is_loaded_or_refused(where: Path, content: bytes) -> None:
    path = where / "data.npz"
    path.write_bytes(content)
    try:
        splits = load(f"npz:{path}")
    except AlpruneError:
        return
    assert len(splits.train) == len(splits.train.y) > 0
    assert int(splits.train.y.max()) < len(splits.train.classes)


def sound_images() -> Iterator[bytes]:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 4, 3), np.uint8)
    for kind in ("PNG", "JPEG", "GIF", "TIFF", "BMP", "WEBP", "PPM"):
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, kind)
        yield buffer.getvalue()


@QUICK
@given(st.binary() | st.sampled_from(list(sound_images())).flatmap(damaged))
@pytest.mark.filterwarnings("ignore")
def test_an_image_is_decoded_to_its_size_or_refused(where: Path, content: bytes) -> None:
    tree = where / "image"
    for place in ("train/a", "train/b", "test/a", "test/b"):
        (tree / place).mkdir(parents=True, exist_ok=True)
        (tree / place / "0").write_bytes(b"P6 1 2 255 \0\1\2\3\4\5")
    (tree / "train" / "a" / "1").write_bytes(content)
    try:
        splits = load(f"folder:{tree}", size=(3, 2))
    except DataError as error:
        assert "1 of 5 files" in str(error)
        return
    assert splits.train.x.shape[:3] == (3, 3, 2)


letters = st.characters(blacklist_characters="/\0", blacklist_categories=["Cs"])
names = st.text(letters, min_size=1, max_size=6).filter(lambda n: n not in (".", ".."))
contents = st.sampled_from(
    [
        b"",
        b"GIF89a",
        b"\xff\xd8\xff\xe0junk",
        b"P5 2 2 255 \0\1\2\3",
        b"P6 1 2 255 \0\1\2\3\4\5",
        png(1, 1, content=b"x\x9cc```\0\0\0\4\0\1"),
        png(2**31 - 1, 2**31 - 1),
    ]
)
entries = st.one_of(contents, st.tuples(st.sampled_from(["link", "pipe"]), names))


def build(root: Path, tree: dict[tuple[str, ...], Any]) -> None:
    for path, entry in tree.items():
        place = root.joinpath(*path)
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(entry, bytes):
                place.write_bytes(entry)
            elif entry[0] == "link":
                place.symlink_to(entry[1])
            else:
                os.mkfifo(place)
        except OSError:  # a file and a folder of one name, or names that the system refuses
            continue


places = st.tuples(
    st.sampled_from(["train", "test"]), st.sampled_from(["a", "b"]) | names, names
) | st.lists(names | st.sampled_from(["train", "test"]), min_size=1, max_size=4).map(tuple)


@QUICK
@given(st.dictionaries(places, entries, max_size=12), st.booleans())
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_folder_of_images_is_loaded_or_refused(
    where: Path, tree: dict[tuple[str, ...], Any], sound: bool
) -> None:
    root = where / "tree"
    shutil.rmtree(root, ignore_errors=True)
    if sound:  # otherwise next to nothing would get past the names of the classes
        image = b"P6 1 2 255 \0\1\2\3\4\5"
        tree = tree | {(part, name, "0"): image for part in ("train", "test") for name in "ab"}
    build(root, tree)
    try:
        splits = load(f"folder:{root}", size=(2, 2), skip_unreadable=True)
    except AlpruneError:
        return
    assert splits.train.image_shape[1:] == (2, 2)


# --- names and the command line ---


@QUICK
@given(st.text() | st.from_regex(r"[a-z.]{0,9}:[A-Z.]{0,9}", fullmatch=True))
def test_a_name_is_found_or_refused(name: str) -> None:
    with pytest.raises(ConfigError):
        lookup("method", name, {"3sp": 1, "dense": 2})


def flags() -> Iterator[str]:
    for parameter in main.get_command(click.Context(main), "run").params:
        if isinstance(parameter, click.Option) and parameter.name not in ("help", "out", "dataset"):
            yield from (*parameter.opts, *parameter.secondary_opts)


words = (
    st.sampled_from(sorted(flags()))
    | numbers.map(str)
    | st.text(st.characters(blacklist_characters="\0", blacklist_categories=["Cs"]), max_size=8)
    | st.sampled_from(["nan", "inf", "1e999", "", "-", "--", "3sp", "auto", "cuda:99", "a:b"])
)


@QUICK
@given(st.sampled_from(["run", "prune"]), st.lists(words, max_size=6))
def test_the_command_line_ends_in_a_message(where: Path, command: str, given: list[str]) -> None:
    missing = ["--dataset", f"npz:{where / 'missing.npz'}"]
    done = CliRunner().invoke(main, [command, *given, *missing])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code in (0, 1, 2)  # 0: --help
    assert (done.exit_code == 1) == ("Error: " in done.stderr and "Usage" not in done.stderr)

"""Crafted files end in a message, soon, in little memory, and nothing of them is run."""

import os
import re
import struct
import subprocess
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from attacks import Outcome, run_attacks
from crafted import (
    GIB,
    archive,
    blank_png,
    inflating_text,
    jpeg_of_scans,
    members,
    npy,
    png,
    png_chunk,
    tiff_of_tile,
    write_inflating,
    write_sparse,
    write_tree,
)


@dataclass(frozen=True)
class Attack:
    """A file to write and what reading it must come to.

    `message` is a pattern that the error matches; None: loading goes well.
    """

    write: Callable[[Path], None]
    code: str
    message: str | None
    most_mb: float = 100
    slow: bool = False


def npz(content: bytes, message: str | None, most_mb: float = 100) -> Attack:
    return Attack(lambda p: void(p.write_bytes(content)), "load('npz:NAME')", message, most_mb)


def void(_: object) -> None:
    return None


def npz_of(message: str | None, **changes: bytes) -> Attack:
    return npz(archive(members(**changes)), message)


def image(content: bytes, message: str | None, file: str = "9.png") -> Attack:
    def write(path: Path) -> None:
        write_tree(path)
        (path / "train" / "dog" / file).write_bytes(content)

    return Attack(write, "load('folder:NAME')", message)


def largest_allowed(mode: str, **options: int) -> Attack:
    def write(path: Path) -> None:
        write_tree(path)
        (path / "train" / "dog" / "9.png").write_bytes(blank_png(9459, mode, **options))

    return Attack(write, "load('folder:NAME')", None, 900, slow=True)


def tree(change: Callable[[Path], object], message: str | None) -> Attack:
    def write(path: Path) -> None:
        write_tree(path)
        change(path)

    return Attack(write, "load('folder:NAME')", message)


def recipe(content: bytes, message: str) -> Attack:
    return Attack(lambda p: void(p.write_bytes(content)), "RunConfig.from_toml('NAME')", message)


def plan(text: str, message: str) -> Attack:
    return Attack(
        lambda p: void(p.write_text(text)), "Plan.from_json(Path('NAME').read_text())", message
    )


def events(write: Callable[[Path], object], message: str | None, most_mb: float = 400) -> Attack:
    def make(path: Path) -> None:
        path.mkdir()
        write(path / "events.jsonl")

    return Attack(make, "read_events(Path('NAME'))", message, most_mb)


def a_plan(**changes: str) -> str:
    parts = {
        "kind": '"channels"',
        "kept": '{"a": [0]}',
        "sizes": '{"a": 2}',
        "example_shape": "[3, 8, 8]",
        "floored": "[]",
        "layer_widths": "{}",
        "sparsity": "0.0",
    }
    return "{" + ", ".join(f'"{k}": {v}' for k, v in (parts | changes).items()) + "}"


def claiming(content: bytes, size: int) -> bytes:
    """Let an archive's directory say that its first member is `size` bytes long."""
    first = content.index(b"PK\x01\x02")
    return content[: first + 24] + struct.pack("<I", size) + content[first + 28 :]


def encrypted(content: bytes) -> bytes:
    first = content.index(b"PK\x01\x02")
    return content[: first + 8] + b"\x01" + content[first + 9 :]


def twice(content: bytes) -> bytes:
    """Give the member x_trait another's name."""
    return content.replace(b"x_trait.npy", b"x_train.npy")


DEEP = "[" * 100_000
NUMBER = b"9" * 5000
JUNK = bytes(range(256)) * 4

ATTACKS: dict[str, Attack] = {
    "npz: inflates to 100 GiB": Attack(
        lambda p: write_inflating(p, 100), "load('npz:NAME')", "x_train.*inflates"
    ),
    "npz: header of 3 TB": npz_of("x_train", x_train=npy("(1000000, 1000, 1000, 3)")),
    "npz: header of 3 TB, compressed": npz(
        archive(members(x_train=npy("(1000000, 1000, 1000, 3)")), zipfile.ZIP_DEFLATED), "x_train"
    ),
    "npz: negative shape": npz_of("x_train", x_train=npy("(-1, 4, 4, 3)", content=bytes(48))),
    "npz: shape that overflows": npz_of("x_train", x_train=npy(f"({2**62}, 4, 4, 3)")),
    "npz: shape of zeros and giants": npz_of("x_train", x_train=npy(f"(0, {2**62}, 4, 3)")),
    "npz: shape nested deep": npz_of("x_train", x_train=npy("(" * 4000 + ")" * 4000)),
    "npz: header that is code": npz_of("x_train", x_train=npy("__import__('os').abort()")),
    "npz: header of 60 kB": npz_of("x_train", x_train=npy("(" + "1," * 30_000 + ")")),
    "npz: objects": npz_of("x_train", x_train=npy("(6,)", "|O", b"cos\nabort\n(tR.")),
    "npz: directory lies about a size": npz(claiming(archive(members()), 2**32 - 2), "x_train"),
    "npz: encrypted": npz(encrypted(archive(members())), "x_train"),
    "npz: names that climb": npz(
        archive({f"../../../{name}": content for name, content in members().items()}), "lacks x_tr"
    ),
    "npz: an absolute name beside": npz(archive(members() | {"/tmp/sprung": b"x"}), None),
    "npz: 20,000 members": npz(
        archive(members() | {f"m{i}": b"" for i in range(20_000)}), None, 300
    ),
    "npz: class names that are not characters": npz_of(
        "not text", classes=npy("(2,)", "<U1", b"\xff\xff\xff\x7f" * 2)
    ),
    "npz: class names of half a character": npz_of(
        "not text", classes=npy("(2,)", "<U1", b"\0\xd8\0\0\1\xd8\0\0")
    ),
    "npz: two members of one name": npz(twice(archive(members() | {"x_trait": b""})), "two arrays"),
    "npz: cut short": npz(archive(members())[:900], "not a complete .npz"),
    "npz: empty": npz(b"", "not a complete .npz"),
    "npz: 1 TB of nothing": Attack(
        lambda p: write_sparse(p, 1000 * GIB), "load('npz:NAME')", "not a complete .npz"
    ),
    "npz: a pipe": Attack(os.mkfifo, "load('npz:NAME')", "a pipe or a device"),
    "npz: a device": Attack(
        lambda p: p.symlink_to("/dev/zero"), "load('npz:NAME')", "a pipe or a device"
    ),
    "npz: a link to itself": Attack(lambda p: p.symlink_to(p), "load('npz:NAME')", "no file"),
    "npz: a name too long": Attack(void, f"load('npz:{'x' * 5000}')", "no file"),
    "npz: a name with a null": Attack(void, r"load('npz:a\0b')", "no file"),
    "npz: nobody's home": Attack(void, "load('npz:~nobody-of-that-name/x')", "no file"),
    "image: PNG of 50,000 x 50,000": image(png(50_000, 50_000), "more than 178,956,970 pixels"),
    "image: PNG of 10,000 x 9,000": image(png(10_000, 9_000), "10000 x 9000 pixels"),
    "image: transparent, 89 million pixels": largest_allowed("RGBA"),
    "image: 16 bits, 89 million pixels": largest_allowed("I;16"),
    "image: palette, 89 million pixels": largest_allowed("P", transparency=0),
    "image: text that inflates": image(png(8, 8, inflating_text(80)), "9.png"),
    "image: chunk of 2 GB in a file of 20 GB": Attack(
        lambda p: (
            write_tree(p),
            write_sparse(
                p / "train" / "dog" / "9.png",
                20 * GIB,
                png(8, 8, png_chunk(b"tEXt", b"a\0b", 2**31 - 1)),
            ),
        )[0],
        "load('folder:NAME')",
        "9.png",
    ),
    "image: JPEG of 5000 scans": image(jpeg_of_scans(256, 5000), "scans", file="9.jpg"),
    "image: TIFF with a tile of 17 GB": image(tiff_of_tile(131072), "9.tiff", file="9.tiff"),
    "image: SVG named .jpg": image(b"<svg xmlns='http://www.w3.org/2000/svg'/>", "no known format"),
    "image: HTML named .png": image(b"<!doctype html><script>1</script>", "no known format"),
    "image: EPS named .png": image(b"%!PS-Adobe-3.0 EPSF-3.0\n%%EOF\n", "no known format"),
    "image: zero bytes": image(b"", "no known format"),
    "image: junk": image(JUNK, "no known format"),
    "image: name that steers a terminal": image(b"", r"\\x1b\[2J\\n", file="\x1b[2J\n.png"),
    "folder: a link to /etc/passwd": tree(
        lambda p: (p / "train" / "dog" / "x.png").symlink_to("/etc/passwd"),
        "1 link leads out of .*x.png' to '/etc/passwd'.*--follow-links",
    ),
    "folder: a class that is /etc": tree(
        lambda p: [(p / part / "etc").symlink_to("/etc") for part in ("train", "test")],
        "links? leads? out of .* to '/etc'",
    ),
    "folder: a link that climbs": tree(
        lambda p: (p / "test" / "cat" / "x").symlink_to("../../../../x"), "leads? out of"
    ),
    "folder: pipes and devices": tree(
        lambda p: (
            os.mkfifo(p / "train" / "dog" / "pipe.png"),
            (p / "train" / "dog" / "zero.png").symlink_to("/dev/zero"),
            os.mkfifo(p / "train" / "pipe"),
        ),
        None,
    ),
    "folder: a link to itself": tree(
        lambda p: (p / "train" / "dog" / "x.png").symlink_to("x.png"), "x.png"
    ),
    "folder: a class that holds itself": tree(
        lambda p: [(p / part / "eel").symlink_to(".") for part in ("train", "test")],
        "links to a folder that contains it",
    ),
    "folder: a class that is not text": tree(
        lambda p: os.mkdir(os.fsencode(p / "train") + b"/\xff\xfe"), "no UTF-8 text"
    ),
    "folder: 1500 folders deep": tree(lambda p: deepen(p / "train" / "dog", 1500), None),
    "folder: a name too long": Attack(void, f"load('folder:{'x' * 5000}')", "no folder"),
    "folder: a name with a null": Attack(void, r"load('folder:a\0b')", "no folder"),
    "folder: nobody's home": Attack(void, "load('folder:~nobody-of-that-name')", "no folder"),
    "folder: sizes beyond memory": Attack(
        write_tree, "load('folder:NAME', size=(10**7, 10**7))", "more than there is"
    ),
    "folder: sizes beyond numbers": Attack(
        write_tree, "load('folder:NAME', size=(2**40, 2**40))", "more than there is"
    ),
    "recipe: nested deep": recipe(b"seed = " + b"[" * 20_000, "nested too deep"),
    "recipe: tables nested deep": recipe(b"seed = " + b"{a=" * 9_000, "nested too deep"),
    "recipe: dotted keys": recipe(b"a" + b".a" * 16_000 + b" = 1", "more than 128 dots"),
    "recipe: number of 5000 digits": recipe(b"seed = " + NUMBER, "not valid TOML.*digits"),
    "recipe: number of 20,000 bits": recipe(b"steps = 0x" + b"f" * 5000, "of 20000 bits"),
    "recipe: list for a number": recipe(b"lr = [1.0, 2.0]", r"lr must be a number, got \[1"),
    "recipe: infinite": recipe(b"budget = inf", "finite"),
    "recipe: junk": recipe(JUNK, "not valid TOML"),
    "recipe: null in a name": recipe(b'out = "a\\u0000b"', "no null"),
    "recipe: a name of 30,000 letters": recipe(b'seed = "' + b"x" * 30_000 + b'"', "30,002 char"),
    "recipe: 100 GiB": Attack(
        lambda p: write_sparse(p, 100 * GIB), "RunConfig.from_toml('NAME')", "longer than"
    ),
    "recipe: a pipe": Attack(os.mkfifo, "RunConfig.from_toml('NAME')", "a pipe or a device"),
    "recipe: a device": Attack(
        lambda p: p.symlink_to("/dev/zero"), "RunConfig.from_toml('NAME')", "a pipe or a device"
    ),
    "plan: nested deep": plan(DEEP, "not a plan.*RecursionError"),
    "plan: NaN": plan(a_plan(sparsity="NaN"), "sparsity must be"),
    "plan: infinite size": plan(a_plan(sizes='{"a": 1e999}'), "whole numbers"),
    "plan: number of 5000 digits": plan(a_plan(sizes='{"a": ' + NUMBER.decode() + "}"), "digits"),
    "plan: shape of 4 TB": plan(a_plan(example_shape="[1000000, 1000000]"), "too large"),
    "plan: layer of 4 TB": plan(a_plan(layer_widths='{"a": [1000000, 1000000]}'), "too large"),
    "plan: text for numbers": plan(a_plan(kept='{"a": "0"}'), "must be a list"),
    "plan: true for a number": plan(a_plan(sizes='{"a": true}'), "whole numbers"),
    "plan: 40 MB of lists": plan("[" + "[]," * 6_000_000 + "[]]", "18,000,004 characters"),
}


def deepen(folder: Path, levels: int) -> None:
    here = os.open(folder, os.O_RDONLY)
    for _ in range(levels):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)


QUICK = [name for name, attack in ATTACKS.items() if not attack.slow]
SLOW = [name for name, attack in ATTACKS.items() if attack.slow]


def run_named(names: list[str], where: Path) -> dict[str, Outcome]:
    where.mkdir(exist_ok=True)
    codes = []
    for number, name in enumerate(names):
        ATTACKS[name].write(where / f"attack{number}")
        codes.append(ATTACKS[name].code.replace("NAME", f"attack{number}"))
    found = dict(zip(names, run_attacks(codes, where), strict=True))
    subprocess.run(["rm", "-rf", where])  # shutil.rmtree fails on so deep a folder
    return found


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    return run_named(QUICK, tmp_path_factory.mktemp("attacks"))


def check(attack: Attack, outcome: Outcome) -> None:
    if attack.message is None:
        assert outcome.said == "no error"
    else:
        assert re.match(r"(Data|Config|Prune|Store)Error: ", outcome.said), outcome.said
        assert re.search(attack.message, outcome.said, re.DOTALL), outcome.said
    assert outcome.peak_mb < attack.most_mb, outcome


@pytest.mark.parametrize("name", QUICK)
def test_an_attack_ends_in_a_message_and_takes_little_memory(
    name: str, outcomes: dict[str, Outcome]
) -> None:
    check(ATTACKS[name], outcomes[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_a_slow_attack_does_too(name: str, tmp_path: Path) -> None:
    check(ATTACKS[name], run_named([name], tmp_path / "attack")[name])

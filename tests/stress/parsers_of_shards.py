"""What fuzz.py feeds of sharded data: a shard, and the index of a set of them."""

import io
import random
import shutil
import tarfile
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image

from alprune.data import load
from alprune.data.image_cache.store import list_caches

TAR = [b"ustar\0", b"ustar  \0", b"K", b"L", b"S", b"x", b"g", b"2", b"\x80\0\0\0", b"\xff" * 12]
TAR += [b"7777777777777", b"-0000001", b"15 path=../../a\n", b"12 size=-9\n", b"\0" * 512]
TAR += [
    b"99999999999999999999 path=a\n",
    b"30 size=99999999999999999999\n",
    b"25 GNU.sparse.size=9999\n",
    b".cls",
    b".jpg.png",
]
_KEYS = "path size mtime uid gname linkpath hdrcharset comment".split()
_KEYS += [f"GNU.sparse.{key}" for key in "map size name major minor realsize offset".split()]
_SIZE, _CHECKSUM = slice(124, 136), slice(148, 156)  # of a header of 512 bytes


def parts(words: list[bytes]) -> dict[str, tuple[Any, ...]]:
    """Return the arguments of each parser's Target by its name; `words` are JSON's."""
    return {
        "shard": ([_shard(tarfile.GNU_FORMAT), _shard(tarfile.PAX_FORMAT)], TAR, _load, _inside),
        "shard index": ([_index()], words, _known),
    }


def _shard(kind: int) -> bytes:
    out, image = io.BytesIO(), io.BytesIO()
    Image.new("RGB", (4, 4), "red").save(image, "PNG")
    with tarfile.open(fileobj=out, mode="w", format=kind) as tar:
        for number in range(3):
            for name, content in (("png", image.getvalue()), ("cls", b"%d" % (number % 2))):
                member = tarfile.TarInfo(f"{'d' * 90}/{'k' * 20}{number}.{name}")
                member.size, member.mtime = len(content), 0.5
                tar.addfile(member, io.BytesIO(content))
    return out.getvalue()


def _set(folder: Path, train: bytes) -> Path:
    root = folder / "set"
    for part, content in (("train", train), ("test", _shard(tarfile.GNU_FORMAT))):
        (root / part).mkdir(parents=True, exist_ok=True)
        (root / part / "0.tar").write_bytes(content)
    return root


def _load(path: Path) -> object:
    return load(f"shards:{_set(path.parent, path.read_bytes())}", skip_unreadable=True)


def _inside(content: bytes, words: list[bytes], rng: random.Random) -> bytes:
    """Change a header and make its checksum fit, or put records of PAX before it."""
    begin = 512 * rng.randrange(max(1, len(content) // 512))
    if rng.random() < 0.3:
        return content[:begin] + _records(words, rng) + content[begin:]
    header = bytearray(content[begin : begin + 512].ljust(512, b"\0"))
    at, word = rng.choice((0, 124, 156, 157, 257, 345, rng.randrange(512))), rng.choice(words)
    if rng.random() < 0.3:
        at, word = _SIZE.start, b"%011o\0" % rng.randrange(2 ** rng.randrange(1, 33))
    header[at : at + len(word)] = word
    if rng.random() < 0.2:  # a number of base 256, which may be negative
        number = rng.choice((-1, -512, -1536, 2**32, 2**62, rng.randrange(-(2**40), 2**40)))
        header[_SIZE] = (b"\xff" if number < 0 else b"\x80") + number.to_bytes(
            11, "big", signed=True
        )
    header = header[:512]
    header[_CHECKSUM] = b" " * 8
    header[_CHECKSUM] = b"%06o\0 " % sum(header)
    times = rng.choice((2, 100, 3000)) if rng.random() < 0.1 else 1
    return content[:begin] + bytes(header) * times + content[begin + 512 :]


def _records(words: list[bytes], rng: random.Random) -> bytes:
    """Return a header of records whose stated lengths are right."""
    text = b""
    for _ in range(rng.choice((1, 1, 2, 5, 200))):
        number = b"%d" % rng.randrange(-(2 ** rng.randrange(1, 70)), 2 ** rng.randrange(1, 70))
        value = rng.choice((*words, number, b"abc", b"nan", b"1e999", b"1,2,3"))
        record = b" %s=%s\n" % (rng.choice(_KEYS).encode(), value)
        length = len(record) + 1
        while len(b"%d" % length) + len(record) != length:
            length = len(b"%d" % length) + len(record)
        text += b"%d%s" % (length, record)
    member = tarfile.TarInfo("records")
    member.type, member.size = rng.choice((b"x", b"x", b"g")), len(text)
    return member.tobuf(tarfile.USTAR_FORMAT) + text + b"\0" * (-len(text) % 512)


def _index() -> bytes:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        root = _set(folder, _shard(tarfile.GNU_FORMAT))
        load(f"shards:{root}", cache=folder / "cache")
        [info] = list_caches(folder / "cache")
        return (info.path / "index").read_bytes()


def _known(path: Path) -> object:
    """Start with an index that something has been at."""
    root, cache = _set(path.parent, _shard(tarfile.GNU_FORMAT)), path.parent / "cache"
    load(f"shards:{root}", cache=cache)
    [info] = list_caches(cache)
    shutil.copyfile(path, info.path / "index")
    splits = load(f"shards:{root}", cache=cache)
    assert splits.train.x.shape == (3, 32, 32, 3)
    return splits

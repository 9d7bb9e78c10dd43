"""Small files that claim to be large, or are other than their names say."""

import io
import re
import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

GIB = 2**30


def npy(shape: str, dtype: str = "|u1", content: bytes = b"") -> bytes:
    """Return an .npy file whose header says `shape`, whatever the content."""
    header = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}"
    text = header.encode() + b" " * (-(len(header) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + content


def members(**changes: bytes | None) -> dict[str, bytes]:
    """Return the four members of a sound data set, some replaced or (None) left out."""
    parts: dict[str, bytes | None] = {}
    for part, n in (("train", 6), ("test", 4)):
        images = np.random.default_rng(n).integers(0, 256, (n, 4, 4, 3), np.uint8)
        parts[f"x_{part}"] = npy(f"({n}, 4, 4, 3)", content=images.tobytes())
        parts[f"y_{part}"] = npy(f"({n},)", "<i8", (np.arange(n) % 2).astype("<i8").tobytes())
    return {name: content for name, content in (parts | changes).items() if content is not None}


def archive(parts: Mapping[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    """Return an .npz file of these members; a name may hold a path."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as file:
        for name, content in parts.items():
            file.writestr(f"{name}.npy", content)
    return buffer.getvalue()


def write_inflating(path: Path, gib: int) -> None:
    """Write an .npz whose x_train inflates to `gib` GiB of zeros; its header and sizes say so."""
    n = gib * GIB // (32 * 32 * 3)
    head = npy(f"({n}, 32, 32, 3)")
    size = len(head) + n * 32 * 32 * 3
    block_size = 2**26
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    first = deflate.compress(head) + deflate.flush(zlib.Z_FULL_FLUSH)
    zeros = deflate.compress(bytes(block_size)) + deflate.flush(zlib.Z_FULL_FLUSH)
    blocks, rest = divmod(size - len(head), block_size)
    last = deflate.compress(bytes(rest)) + deflate.flush()
    compressed = len(first) + blocks * len(zeros) + len(last)
    with zipfile.ZipFile(path, "w") as file:
        for name, content in members(x_train=None).items():
            file.writestr(f"{name}.npy", content)
    sound = path.read_bytes()
    end = sound.rindex(b"PK\x05\x06")
    directory_at = struct.unpack_from("<I", sound, end + 16)[0]
    name = b"x_train.npy"
    # The sizes stand in a zip64 field: they need more than 32 bits.
    extra = struct.pack("<HHQQ", 1, 16, size, compressed)
    common = struct.pack("<5H3I2H", 45, 0, 8, 0, 0, 0, 2**32 - 1, 2**32 - 1, len(name), len(extra))
    local = b"PK\x03\x04" + common + name + extra
    entry = b"PK\x01\x02" + struct.pack("<H", 45) + common
    entry += struct.pack("<HHHII", 0, 0, 0, 0, directory_at) + name + extra
    directory = sound[directory_at:end] + entry
    with path.open("wb") as out:
        out.write(sound[:directory_at] + local + first)
        for _ in range(blocks):
            out.write(zeros)
        out.write(last)
        start = out.tell()
        out.write(directory)
        out.write(struct.pack("<4sHHHHIIH", b"PK\x05\x06", 0, 0, 4, 4, len(directory), start, 0))


def png_chunk(kind: bytes, body: bytes, length: int | None = None) -> bytes:
    """Return a PNG chunk; `length` is what it claims to have."""
    size = struct.pack(">I", len(body) if length is None else length)
    return size + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, *between: bytes, colour: int = 2, content: bytes = b"") -> bytes:
    """Return a PNG of that size whose pixels are missing; `between` stands before them."""
    header = struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0)
    pixels = png_chunk(b"IDAT", content or zlib.compress(bytes(64)))
    ends = png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + b"".join(between) + pixels + ends


def blank_png(side: int, mode: str, **options: int) -> bytes:
    """Return a sound PNG of one colour, small as a file."""
    buffer = io.BytesIO()
    Image.new(mode, (side, side)).save(buffer, "PNG", **options)
    return buffer.getvalue()


def inflating_text(mib: int) -> bytes:
    """Return a PNG chunk of compressed text that inflates to so much."""
    return png_chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(mib * 2**20), 9))


def jpeg_of_scans(side: int, scans: int) -> bytes:
    """Return a progressive JPEG whose last scan comes `scans` times more."""
    buffer = io.BytesIO()
    Image.new("L", (side, side), 77).save(buffer, "JPEG", progressive=True)
    content = buffer.getvalue()
    last = content[[match.start() for match in re.finditer(b"\xff\xda", content)][-1] : -2]
    return content[:-2] + last * scans + b"\xff\xd9"


def tiff_of_tile(tile: int) -> bytes:
    """Return a TIFF of 16x16 pixels that claims to lie in a tile of `tile` x `tile`."""
    tags = [(256, 16), (257, 16), (258, 8), (259, 8), (262, 1), (277, 1)]
    tags += [(322, tile), (323, tile), (324, 8), (325, 8)]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return b"II*\0" + struct.pack("<IQH", 16, 0, len(tags)) + entries + bytes(4)


def write_sparse(path: Path, size: int, head: bytes = b"") -> None:
    """Write a file of that size that takes no room on the disk."""
    with path.open("wb") as file:
        file.write(head)
        file.truncate(size)


def write_tree(root: Path) -> None:
    """Write a sound folder of images: two classes with one image each in both parts."""
    for part in ("train", "test"):
        for number, name in enumerate(("cat", "dog")):
            (root / part / name).mkdir(parents=True)
            pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3), np.uint8)
            Image.fromarray(pixels).save(root / part / name / "0.png")

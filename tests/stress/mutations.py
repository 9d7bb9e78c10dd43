"""Damage files: anywhere, or within a container that is sound again afterwards."""

import io
import json
import random
import struct
import zipfile
import zlib
from typing import Any

LARGEST = 2**20  # bytes of an input
PNG_KINDS = [b"IHDR", b"PLTE", b"tRNS", b"iCCP", b"zTXt", b"eXIf", b"IDAT", b"acTL", b"gAMA"]
_EDGES = [0, 1, 0x7F, 0x80, 0xFF, 0xFFFF, 2**31 - 1, 2**32 - 1]


def mutate(content: bytes, words: list[bytes], rng: random.Random) -> bytes:
    """Change a few places: flip, overwrite, cut, repeat, insert, put extreme numbers."""
    out = bytearray(content)
    for _ in range(rng.choice([1, 1, 1, 2, 3, 6])):
        at = rng.randrange(len(out) + 1)
        until = min(len(out), at + rng.choice([1, 1, 2, 4, 8, 32, 200]))
        match rng.randrange(8):
            case 0 if out:
                out[at - 1] ^= 1 << rng.randrange(8)
            case 1:
                out[at:until] = rng.randbytes(until - at)
            case 2:
                del out[at:until]
            case 3:
                out[at:at] = out[at:until] * rng.choice([1, 2, 50, 1000])
            case 4:
                out[at:at] = rng.choice(words)
            case 5:
                out[at:until] = rng.choice(words)
            case 6:
                out[at : at + 4] = struct.pack(rng.choice("<>") + "I", rng.choice(_EDGES))
            case 7:
                del out[at:]
        del out[LARGEST:]
    return bytes(out)


def inside_npz(content: bytes, words: list[bytes], rng: random.Random) -> bytes:
    """Mutate the head of one member of an archive and pack it soundly again."""
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        parts = {name: file.read(name) for name in file.namelist()}
    name = rng.choice(sorted(parts))
    parts[name] = mutate(parts[name][:128], words, rng) + parts[name][128:]
    if rng.random() < 0.1:
        del parts[rng.choice(sorted(parts))]
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", rng.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])) as f:
        for name, part in parts.items():
            f.writestr(name, part)
    return buffer.getvalue()


def inside_image(content: bytes, words: list[bytes], rng: random.Random) -> bytes:
    """Mutate a PNG's chunks and make their checksums right again; other images anywhere."""
    if not content.startswith(b"\x89PNG"):
        return mutate(content, words, rng)
    chunks, at = [], 8
    while at + 12 <= len(content):
        size = struct.unpack_from(">I", content, at)[0]
        chunks.append((content[at + 4 : at + 8], content[at + 8 : at + 8 + size]))
        at += 12 + size
    place = rng.randrange(len(chunks))
    kind, body = chunks[place]
    if kind == b"IDAT" and rng.random() < 0.7:
        body = zlib.compress(mutate(zlib.decompress(body), words, rng))
    else:
        body = mutate(body, words, rng)
    chunks[place] = rng.choice([kind, kind, rng.choice(PNG_KINDS)]), body
    packed = (
        struct.pack(">I", len(b)) + k + b + struct.pack(">I", zlib.crc32(k + b)) for k, b in chunks
    )
    return content[:8] + b"".join(packed)


def inside_json(content: bytes, words: list[bytes], rng: random.Random) -> bytes:
    """Put another value somewhere into a JSON document, or into one of several lines."""
    lines = content.decode().splitlines()
    place = rng.randrange(len(lines))
    lines[place] = json.dumps(other_value(json.loads(lines[place]), rng))
    return "\n".join([*lines, ""] if len(lines) > 1 else lines).encode()


def other_value(value: Any, rng: random.Random) -> Any:
    """Replace something within a JSON value, or all of it."""
    if rng.random() < 0.7 and isinstance(value, dict) and value:
        key = rng.choice(sorted(value))
        return value | {key: other_value(value[key], rng)}
    if rng.random() < 0.7 and isinstance(value, list) and value:
        place = rng.randrange(len(value))
        return [*value[:place], other_value(value[place], rng), *value[place + 1 :]]
    numbers = [None, True, -1, 0, 1, 2**31, 2**63, 10**300, 0.5, float("nan"), float("inf")]
    return rng.choice([*numbers, "", "3", "a" * 300, [], {}, [[]], {"a": {}}, [1, 2], {"a": [1]}])

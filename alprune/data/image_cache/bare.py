"""An image file without its metadata, for sound pictures whose metadata is damaged."""

import re
import struct
import zlib

_JPEG_MARKER = re.compile(rb"\xff([^\x00\x01\xd0-\xd8\xff])")  # one that has a length behind it
_JPEG_KEPT = {0xE0, 0xEE}  # JFIF and Adobe say how colours are coded
_JPEG_LEAST = 14  # bytes that both of these take
_PNG = b"\x89PNG\r\n\x1a\n"
_WEBP_PICTURE = (b"ALPH", b"VP8 ", b"VP8L", b"ANIM", b"ANMF")
# What an item of an ISO media file is: EXIF or XMP, in its entry of the table of items.
_ISO_METADATA = re.compile(rb"(infe[\x02\x03]\0\0.(?:.{4}|.{6}))(?:Exif|mime)", re.DOTALL)
_WEBP_METADATA_FLAGS = 0x20 | 0x08 | 0x04  # ICC profile, EXIF, XMP


def without_metadata(content: bytes) -> bytes | None:
    """Return a JPEG, PNG, WebP, AVIF or HEIC file with nothing in it but the picture.

    Returns:
        The file; None if it is of another format or holds no metadata.
    """
    if content.startswith(b"\xff\xd8"):
        bare = _bare_jpeg(content)
    elif content.startswith(_PNG):
        bare = _bare_png(content)
    elif content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        bare = _bare_webp(content)
    elif content[4:8] == b"ftyp":
        bare = _ISO_METADATA.sub(rb"\1free", content)  # unknown items are passed over
    else:
        return None
    return bare if bare != content else None


def _bare_jpeg(content: bytes) -> bytes:
    """Leave out the application segments and comments before the first scan."""
    parts, at = [content[:2]], 2
    while found := _JPEG_MARKER.search(content, at):
        marker, begin = found[1][0], found.end()
        if marker in (0xD9, 0xDA) or begin + 2 > len(content):
            break
        end = begin + int.from_bytes(content[begin : begin + 2], "big")
        sound = marker in _JPEG_KEPT and end - begin >= _JPEG_LEAST
        if sound or not (0xE0 <= marker <= 0xEF or marker == 0xFE):
            parts.append(content[at:end])
        at = end
    return b"".join([*parts, content[at:]])


def _bare_png(content: bytes) -> bytes:
    """Keep the critical chunks, and transparency if it is sound."""
    parts, at = [_PNG], len(_PNG)
    while at + 12 <= len(content):
        length, kind = struct.unpack_from(">I4s", content, at)
        end = at + 12 + length
        if not kind[0] & 0x20:  # critical
            parts.append(content[at:end])
        elif kind == b"tRNS" and _has_its_checksum(content[at:end]):
            parts.append(content[at:end])
        at = end
        if kind == b"IEND":
            break
    return b"".join(parts)


def _has_its_checksum(chunk: bytes) -> bool:
    return zlib.crc32(chunk[4:-4]) == int.from_bytes(chunk[-4:], "big")


def _bare_webp(content: bytes) -> bytes:
    parts, at = [], 12
    while at + 8 <= len(content):
        kind, length = struct.unpack_from("<4sI", content, at)
        end = at + 8 + length + length % 2
        if kind == b"VP8X" and length >= 1:
            flags = content[at + 8] & ~_WEBP_METADATA_FLAGS
            parts.append(content[at : at + 8] + bytes([flags]) + content[at + 9 : end])
        elif kind in _WEBP_PICTURE:
            parts.append(content[at:end])
        at = end
    picture = b"".join(parts)
    return b"RIFF" + struct.pack("<I", 4 + len(picture)) + b"WEBP" + picture

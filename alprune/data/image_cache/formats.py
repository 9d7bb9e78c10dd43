"""Which image formats are decoded, and what a file is that is of none of them."""

from functools import cache

from PIL import Image

from alprune.errors import DataError

# Photographs and scans only. Formats that Pillow hands to another program (EPS) stay out.
_FORMATS = ("JPEG", "MPO", "PNG", "GIF", "BMP", "TIFF", "WEBP", "AVIF", "PPM", "JPEG2000", "HEIF")
HEIC_ADVICE = "HEIC photos are read where pillow-heif is: pip install pillow-heif"
_BRANDS = {  # of ISO media files, bytes 8 to 12
    **dict.fromkeys((b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1"), "HEIC"),
    **dict.fromkeys((b"avif", b"avis"), "AVIF"),
    **dict.fromkeys((b"isom", b"mp41", b"mp42", b"qt  ", b"avc1", b"M4V ", b"3gp4"), "a video"),
    b"crx ": "a raw photo",
}
_STARTS = (
    (b"\xff\x0a", "JPEG XL"),
    (b"\0\0\0\x0cJXL ", "JPEG XL"),
    (b"8BPS", "a Photoshop document"),
    (b"%!PS", "PostScript"),
    (b"\xc5\xd0\xd3\xc6", "PostScript"),
    (b"%PDF", "PDF"),
    (b"PK\x03\x04", "a zip archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"\xd0\xcf\x11\xe0", "a document of Microsoft Office, or Thumbs.db"),
    (b"version https://git-lfs", "a pointer of Git LFS: git lfs pull fetches the image"),
    (b"<", "HTML, SVG or other XML"),
    (b"{", "JSON"),
)


class NoDecoder(DataError):
    """An image that could be read if a package were installed."""


def installed_formats() -> list[str]:
    """Return Pillow's names of the formats that can be read here."""
    Image.init()
    if can_read_heic() and "HEIF" not in Image.OPEN:
        from pillow_heif import register_heif_opener

        register_heif_opener()
    return [name for name in _FORMATS if name in Image.OPEN]


@cache
def can_read_heic() -> bool:
    """Tell whether the package for HEIC is installed."""
    try:
        import pillow_heif  # noqa: F401
    except ImportError:
        return False
    return True


def unknown_format(head: bytes) -> DataError:
    """Return the error for a file of no known format; `head` is its first 32 bytes."""
    said = "an image in no known format"
    if not head:
        return DataError(f"{said}: the file is empty")
    what = _BRANDS.get(head[8:12]) if head[4:8] == b"ftyp" else None
    what = what or next((name for start, name in _STARTS if head.startswith(start)), None)
    if what == "HEIC" and not can_read_heic():
        return NoDecoder(f"{said}. {HEIC_ADVICE}")
    return DataError(f"{said}: it is {what}" if what else said)

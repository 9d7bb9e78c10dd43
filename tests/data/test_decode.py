"""What image files of the field look like, and what is read from them."""

import io
import re
import struct
import subprocess
import sys
import warnings
import zlib
from typing import Any

import numpy as np
import pytest
from crafted import jpeg_of_scans, png_chunk
from PIL import Image, PngImagePlugin, TiffImagePlugin, features

from alprune.data.image_cache.decode import Decoder, dark
from alprune.data.image_cache.formats import can_read_heic
from alprune.errors import DataError

SIZE = (8, 8)
GARBAGE = b"Exif\0\0garbage...."


def colours(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*SIZE, 3), np.uint8)


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def decode(content: bytes, size: tuple[int, int] = SIZE) -> np.ndarray:
    return Decoder(size, threads=1).decode(content)


def jpeg(seed: int = 0, **options: Any) -> bytes:
    return saved(Image.fromarray(colours(seed)), "JPEG", **options)


def segment(marker: int, body: bytes) -> bytes:
    return b"\xff" + bytes([marker]) + struct.pack(">H", len(body) + 2) + body


# --- JPEG: only the picture counts ---


def test_a_motion_photo_is_the_picture_before_its_video() -> None:
    video = np.random.default_rng(0).bytes(3_000_000)
    assert video.count(b"\xff\xda") > 30
    video += b"\xff\xda" * 100
    assert np.array_equal(decode(jpeg() + video), decode(jpeg()))


@pytest.mark.parametrize("progressive", [False, True])
def test_scans_in_metadata_and_thumbnails_are_not_those_of_the_picture(progressive: bool) -> None:
    sound = jpeg(progressive=progressive)
    hidden = segment(0xE1, b"Exif\0\0" + b"\xff\xda\0\x02" * 1000) * 3 + segment(
        0xFE, b"\xff\xda" * 1000
    )
    assert np.array_equal(decode(sound[:2] + hidden + sound[2:]), decode(sound))


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("restart", [0, 1])
def test_sound_jpegs_of_any_length_are_not_refused_for_their_scans(
    progressive: bool, restart: int
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (1300, 1300, 3), np.uint8)
    content = saved(
        Image.fromarray(pixels), "JPEG", quality=95, progressive=progressive,
        restart_marker_blocks=restart,
    )  # fmt: skip
    assert len(content) > 2**20  # several reads
    assert decode(content).shape == (8, 8, 3)


def test_a_jpeg_of_thousands_of_scans_is_refused_also_with_fill_bytes_between() -> None:
    content = jpeg_of_scans(64, 200)
    for crafted in (content, content.replace(b"\xff\xda", b"\xff\xff\xff\xda")):
        with pytest.raises(DataError, match="scans; at most 64"):
            decode(crafted)


def test_the_picture_of_an_ultra_hdr_or_mpo_file_is_its_first() -> None:
    first, second = jpeg(1), jpeg(2)
    mpo = saved(Image.fromarray(colours(1)), "MPO", save_all=True,
                append_images=[Image.fromarray(colours(2))])  # fmt: skip
    assert np.array_equal(decode(mpo), decode(first))
    hdrgm = segment(0xE1, b'http://ns.adobe.com/xap/1.0/\0<x hdrgm:Version="1.0"/>')
    assert np.array_equal(decode(first[:2] + hdrgm + first[2:] + second), decode(first))


@pytest.mark.parametrize("at", range(0, 90, 3))
def test_a_damaged_index_of_an_mpo_file_costs_no_picture(at: int) -> None:
    mpo = bytearray(saved(Image.fromarray(colours(1)), "MPO", save_all=True,
                          append_images=[Image.fromarray(colours(2))]))  # fmt: skip
    begin = mpo.index(b"MPF\0") + 4
    mpo[begin + at : begin + at + 3] = b"\xfe\xfe\xfe"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert np.array_equal(decode(bytes(mpo)), decode(jpeg(1)))


# --- damaged metadata of sound pictures, in every format ---


def png(*chunks: bytes) -> bytes:
    content = saved(Image.fromarray(colours()), "PNG")
    return content[:33] + b"".join(chunks) + content[33:]  # behind the header


def bad_checksum(kind: bytes, body: bytes) -> bytes:
    return png_chunk(kind, body)[:-4] + b"\0\0\0\0"


def raw_profile() -> bytes:
    info = PngImagePlugin.PngInfo()
    info.add_text("Raw profile type exif", "\nexif\n      4\nzzzz")
    return saved(Image.fromarray(colours()), "PNG", pnginfo=info)


def webp(**options: Any) -> bytes:
    return saved(Image.fromarray(colours()), "WEBP", lossless=True, **options)


def webp_of_lying_length() -> bytes:
    content = bytearray(webp(exif=GARBAGE))
    at = content.index(b"EXIF") + 4
    content[at : at + 4] = struct.pack("<I", 2**31)
    return bytes(content)


def tiff_of_bad_exif() -> bytes:
    info = TiffImagePlugin.ImageFileDirectory_v2()
    info.tagtype[34665], info[34665] = 4, 2**31 - 5  # where EXIF is said to be
    return saved(Image.fromarray(colours()), "TIFF", tiffinfo=info)


DAMAGED = {
    "PNG, EXIF": saved(Image.fromarray(colours()), "PNG", exif=GARBAGE),
    "PNG, EXIF behind the pixels": saved(Image.fromarray(colours()), "PNG")[:-12]
    + png_chunk(b"eXIf", b"garbage") + png_chunk(b"IEND", b""),
    "PNG, EXIF as text": raw_profile(),
    "PNG, checksum of EXIF": png(bad_checksum(b"eXIf", b"II*\0")),
    "PNG, checksum of text": png(bad_checksum(b"tEXt", b"a\0b")),
    "PNG, text that does not inflate": png(png_chunk(b"zTXt", b"a\0\0junk")),
    "PNG, text too long": png(png_chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(2**22)))),
    "PNG, ICC profile": png(png_chunk(b"iCCP", b"junk")),
    "PNG, chromaticities": png(png_chunk(b"cHRM", b"1")),
    "PNG, resolution": png(png_chunk(b"pHYs", b"")),
    "PNG, gamma": png(png_chunk(b"gAMA", b"")),
    "WebP, EXIF": webp(exif=GARBAGE),
    "WebP, XMP": webp(xmp=b"<<<\xff\xfe"),
    "WebP, length of EXIF": webp_of_lying_length(),
    "WebP, cut in EXIF": webp(exif=GARBAGE)[:-6],
    "TIFF, EXIF": tiff_of_bad_exif(),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_metadata_never_costs_a_sound_picture(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert np.array_equal(decode(DAMAGED[name]), colours())


@pytest.mark.parametrize(
    "body",
    [
        (0xE0, b"JFIF"), (0xEE, b"Adobe"), (0xE2, b"MPF\0junk"), (0xE2, b"ICC_PROFILE\0"),
        (0xED, b"Photoshop 3.0\0" + b"8BIM\x04\x04" + b"\xff" * 9), (0xFE, b""),
        (0xE1, b"http://ns.adobe.com/xap/1.0/\0\xff\xfe<<<"), (0xE1, b"Exif\0\0"),
    ],
    ids=str,
)  # fmt: skip
def test_damaged_segments_of_a_jpeg_cost_no_picture(body: tuple[int, bytes]) -> None:
    sound = jpeg()
    assert np.array_equal(decode(sound[:2] + segment(*body) + sound[2:]), decode(sound))


def test_damaged_exif_of_an_avif_costs_no_picture() -> None:
    if not features.check("avif"):
        pytest.skip("this Pillow reads no AVIF")
    exif = Image.Exif()
    exif[0x010F] = "maker of cameras"
    content = saved(Image.fromarray(colours()), "AVIF", exif=exif)
    damaged = content.replace(b"MM\0*", b"\xfe\xfe\xfe\xfe").replace(b"II*\0", b"\xfe\xfe\xfe\xfe")
    assert damaged != content
    assert np.array_equal(decode(damaged), decode(content))


def test_damaged_pixels_still_are_an_error() -> None:
    content = DAMAGED["PNG, EXIF"]
    with pytest.raises(OSError, match="image file is truncated"):
        decode(content[: len(content) - 60])
    with pytest.raises(OSError, match="could not create decoder"):
        decode(DAMAGED["WebP, EXIF"][:60])


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_turned_upright_once(kind: str, orientation: int) -> None:
    corners = np.zeros((40, 60, 3), np.uint8)
    corners[:20, :30], corners[:20, 30:], corners[20:, :30] = 255, [255, 0, 0], [0, 255, 0]
    back = {2: [0], 3: [3], 4: [1], 5: [5], 6: [2], 7: [6], 8: [4]}
    stored = Image.fromarray(corners)
    for method in back.get(orientation, []):
        stored = stored.transpose(Image.Transpose(method))
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 100, "subsampling": 0} if kind == "JPEG" else {}
    content = saved(stored, kind, exif=exif, **options)
    found = decode(content, (40, 60))
    for at in ((10, 15), (10, 45), (30, 15), (30, 45)):
        assert np.abs(found[at].astype(int) - corners[at]).max() < 12


def test_what_follows_the_picture_is_no_part_of_it_in_any_format() -> None:
    for kind in ("PNG", "GIF", "WEBP", "BMP", "TIFF"):
        content = saved(Image.fromarray(colours()), kind)
        assert np.array_equal(decode(content + b"\xff\xda<junk>" * 500), decode(content))


# --- ranges of values ---


def ramp() -> np.ndarray:
    return np.linspace(0, 1, 64).reshape(8, 8)


def grey(content: bytes) -> np.ndarray:
    return decode(content)[..., 0].astype(int)


def tiff(values: np.ndarray, **tags: Any) -> bytes:
    """Write a grey TIFF of any type of values, uncompressed, with tags by name."""
    numbers = {"low": (280, 3, "H"), "high": (281, 3, "H"), "white_is_zero": (262, 3, "H"),
               "slow": (340, None, "f"), "shigh": (341, None, "f")}  # fmt: skip
    kind = {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
    entries = {256: (3, "H", 8), 257: (3, "H", 8), 258: (3, "H", values.itemsize * 8),
               259: (3, "H", 1), 262: (3, "H", 1), 273: (4, "I", 0), 277: (3, "H", 1),
               278: (3, "H", 8), 279: (4, "I", values.nbytes), 339: (3, "H", kind)}  # fmt: skip
    for name, value in tags.items():
        number, code, form = numbers[name]
        entries[number] = (11 if code is None else code, form, value)
    entries[273] = (4, "I", 8 + 2 + 12 * len(entries) + 4)
    out = struct.pack("<2sHIH", b"II", 42, 8, len(entries))
    for number, (code, form, value) in sorted(entries.items()):
        out += struct.pack("<HHI", number, code, 1) + struct.pack(f"<{form}", value).ljust(4, b"\0")
    return out + struct.pack("<I", 0) + values.astype(values.dtype.newbyteorder("<")).tobytes()


@pytest.mark.parametrize(
    ("values", "tags"),
    [
        ((ramp() * 4095).round().astype(np.uint16), {"high": 4095}),
        ((ramp() * 1023).round().astype(np.uint16), {"high": 1023}),
        ((ramp() * 60_000).round().astype(np.uint32), {"high": 60_000}),
        ((ramp() * 2e9).astype(np.int32), {"slow": 0.0, "shigh": 2e9}),
        ((ramp() * 4000 - 1000).astype(np.int16), {"slow": -1000.0, "shigh": 3000.0}),
        (ramp().astype(np.float32), {"slow": 0.0, "shigh": 1.0}),
        ((ramp() * 65535).astype(np.uint16), {}),
    ],
    ids=["12 in 16", "10 in 16", "uint32", "int32", "int16", "float", "uint16"],
)
def test_the_range_that_a_file_states_becomes_0_to_255(
    values: np.ndarray, tags: dict[str, Any]
) -> None:
    assert np.abs(grey(tiff(values, **tags)) - ramp() * 255).max() <= 1


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((ramp() * 2e9).astype(np.int32), "signed pixels of 32 bits"),
        ((ramp() * 1000).astype(np.int16), "signed pixels of 16 bits"),
        ((ramp() * 100).astype(np.int8), "signed pixels of 8 bits"),
        ((ramp() * 1000).astype(np.uint32), "pixels of 32 bits"),
        (ramp().astype(np.float32), "floating-point pixels"),
    ],
    ids=["int32", "int16", "int8", "uint32", "float"],
)
def test_values_of_no_known_range_are_refused_and_not_decoded_to_black(
    values: np.ndarray, message: str
) -> None:
    with pytest.raises(DataError, match=f"{message}.*SMaxSampleValue"):
        decode(tiff(values))


def test_16_bits_where_white_is_zero_are_turned_round() -> None:
    values = ((1 - ramp()) * 65535).astype(np.uint16)
    assert np.abs(grey(tiff(values, white_is_zero=0)) - ramp() * 255).max() <= 1


def test_12_packed_bits_of_a_tiff_are_all_used() -> None:
    values = (ramp() * 4095).round().astype(np.uint16).reshape(-1, 2)
    packed = np.stack(
        [values[:, 0] >> 4, (values[:, 0] & 15) << 4 | values[:, 1] >> 8, values[:, 1] & 255], 1
    ).astype(np.uint8)
    entries = [(256, 8), (257, 8), (258, 12), (259, 1), (262, 1), (273, 146), (277, 1), (278, 8)]
    entries += [(279, packed.size)]
    body = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries)
    head = struct.pack("<2sHIH", b"II", 42, 8, len(entries))
    content = (head + body + bytes(4)).ljust(146, b"\0") + packed.tobytes()
    assert np.abs(grey(content) - ramp() * 255).max() <= 1


def test_16_bit_images_that_use_12_bits_are_decoded_with_a_warning() -> None:
    decoder = Decoder(SIZE, threads=1)
    decoder.decode(saved(Image.fromarray((ramp() * 4095).astype(np.uint16)), "PNG"))
    said = decoder.said_of_range()
    assert said is not None and re.search("at most 12 bits.*multiply the values by 16", said)
    decoder.decode(saved(Image.fromarray((ramp() * 65535).astype(np.uint16)), "PNG"))
    assert decoder.said_of_range() is None
    assert dark({}) is None


def test_one_bright_16_bit_image_does_not_hide_that_others_are_dark() -> None:
    assert "of 999 of 1,000 16-bit images take at most 12 bits" in str(
        dark({12: 900, 7: 99, 16: 1})
    )
    assert "1 of 3 16-bit images have no value above 255" in str(dark({8: 1, 15: 1, 16: 1}))


def test_grey_maps_of_any_largest_value_are_stretched() -> None:
    values = (ramp() * 4095).round().astype(">u2")
    assert np.abs(grey(b"P5 8 8 4095 " + values.tobytes()) - ramp() * 255).max() <= 1


def test_an_alpha_channel_of_a_bmp_that_is_zero_everywhere_is_not_meant() -> None:
    rgba = np.dstack([colours(), np.zeros(SIZE, np.uint8)])
    head = struct.pack("<2sIHHI", b"BM", 14 + 108 + 256, 0, 0, 14 + 108)
    masks = struct.pack("<4I", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    info = struct.pack("<IiiHHIIiiII", 108, 8, -8, 1, 32, 3, 256, 0, 0, 0, 0) + masks
    content = head + info.ljust(108, b"\0") + rgba[..., [2, 1, 0, 3]].tobytes()
    assert np.array_equal(decode(content), colours())


# --- what is not an image ---


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"\0\0\0\x18ftypheic" + bytes(40), "HEIC|heif"),
        (b"\0\0\0\x18ftypmp42" + bytes(40), "a video"),
        (b"\xff\x0a" + bytes(40), "JPEG XL"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"<!doctype html>", "HTML"),
        (b'{"error": "quota"}', "JSON"),
        (b"\xd0\xcf\x11\xe0" + bytes(100), "Thumbs.db"),
        (b"8BPS" + bytes(100), "Photoshop"),
        (b"P6 30000 20000 255 " + bytes(9), "more than .* pixels; at most 89,478,485"),
    ],
)
def test_what_a_file_is_instead_of_an_image_is_said(content: bytes, message: str) -> None:
    with pytest.raises((DataError, OSError), match=message):
        decode(content)


@pytest.mark.skipif(not can_read_heic(), reason="pillow-heif is not installed")
def test_heic_photos_are_read_where_the_package_is_installed() -> None:
    Decoder(SIZE, threads=1)  # registers the format
    photo = Image.new("RGB", (64, 64), (200, 40, 40))
    assert np.abs(decode(saved(photo, "HEIF")).astype(int) - [200, 40, 40]).max() < 12


def test_a_process_that_decodes_imports_no_torch() -> None:
    code = (
        "import sys; import alprune.data.image_cache.worker as w; w.Decoder((8, 8), 1); "
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

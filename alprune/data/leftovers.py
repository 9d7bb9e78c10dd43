"""What systems, cameras and programs leave among images, which is neither image nor class."""

import contextlib
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from alprune.data.image_cache.formats import HEIC_ADVICE, can_read_heic

# Only files of these names count as images outside of class folders: there are notes as well.
SUFFIXES = frozenset(
    ".jpg .jpeg .jpe .jfif .mpo .png .gif .bmp .dib .tif .tiff .webp .avif .ppm .pgm .pbm .pnm "
    ".jp2 .j2k .jpx".split()
)
HEIC_SUFFIXES = frozenset((".heic", ".heif", ".hif"))
SYSTEM_FOLDERS = "folders of the system or of programs"
OWN_FOLDERS, OWN_FILES = "folders of alprune", "files of alprune"
SYSTEM_FILES, VIDEOS, SIDECARS = "files of the system", "videos", "files of notes on an image"
OTHER_FILES, SPECIAL_FILES = "other files", "special files"
FOLDER_LINKS = "links to folders"
HIDDEN_IMAGES, HIDDEN_FOLDERS = "hidden images", "hidden folders of images"
HEIC = f"HEIC photos ({HEIC_ADVICE})"
_RAW = frozenset(".dng .cr2 .cr3 .nef .arw .raf .orf .rw2 .pef .srw".split())
_OTHER_IMAGES = frozenset(".jxl .psd .svg .eps .ai .ico .tga .exr .hdr .dcm .xcf .jxr".split())
_FOLDER_NAMES = frozenset(
    (
        "__macosx",
        "@eadir",
        "#recycle",
        "@recycle",
        "$recycle.bin",
        "recycler",
        "system volume information",
        "lost+found",
        "found.000",
        "network trash folder",
        "temporary items",
        "__pycache__",
    )
)
_FILE_NAMES = frozenset(
    ("thumbs.db", "ehthumbs.db", "desktop.ini", "folder.htt", "icon\r", "picasa.ini")
)
_PLURAL = re.compile(r"\b(file|folder|image|link|photo|sample|video)s\b")
_VIDEO_SUFFIXES = frozenset(".mov .mp4 .m4v .avi .mkv .3gp .mts .m2ts .webm .mpg .mpeg".split())
_SIDECAR_SUFFIXES = frozenset((".aae", ".xmp", ".thm", ".lrv"))
# Of texts, tables, sounds, archives, programs: a file whose name says so is not a damaged image.
_OTHER_SUFFIXES = frozenset(
    ".txt .md .rst .rtf .log .pdf .doc .docx .odt .ppt .pptx .odp .xls .xlsx .ods .csv .tsv .json "
    ".jsonl .xml .html .htm .yaml .yml .toml .ini .cfg .py .ipynb .r .sh .bat .exe .zip .gz "
    ".tgz .bz2 .xz .7z .rar .tar .mp3 .wav .m4a .ogg .flac .npy .npz .mat .pkl .pt .pth .h5 .db "
    ".sqlite .parquet .lnk .url .gpx .kml .tex .bib .md5 .sha1 .sha256 .lock".split()
)
_OWN_FILES = frozenset(("queries.png", "queries.csv", "predictions.csv", "labels.csv"))
# Files that tell folders which alprune writes: of a run or of asking; of a report.
_OWN_MARKS = (("config.toml", "events.jsonl"), ("report.html", "report.md"))


def kind_of_folder(path: str, name: str) -> str | None:
    """Return why a folder's files are not images of the data set; None if they may be."""
    if name.strip().lower() in _FOLDER_NAMES:
        return SYSTEM_FOLDERS
    if any(all(os.path.isfile(f"{path}/{mark}") for mark in marks) for marks in _OWN_MARKS):
        return OWN_FOLDERS
    return None


def kind_of_file(name: str) -> str | None:
    """Return why a file in a class folder is not an image, by its name; None if it may be one."""
    lower = name.lower()
    if lower in _OWN_FILES:
        return OWN_FILES
    if lower in _FILE_NAMES or lower.startswith("~$"):
        return SYSTEM_FILES
    suffix = os.path.splitext(lower)[1]
    if suffix in _VIDEO_SUFFIXES:
        return VIDEOS
    if suffix in _RAW:  # many can be opened: as their thumbnail, beside the photo made of it
        return "raw photos"
    # Takeouts of photos have a file of notes beside each: a.jpg.json, or with a word between.
    notes = suffix == ".json" and any(f"{image}." in lower for image in SUFFIXES | HEIC_SUFFIXES)
    if notes or suffix in _SIDECAR_SUFFIXES:
        return SIDECARS
    return OTHER_FILES if suffix in _OTHER_SUFFIXES else None


def kind_of_loose(name: str) -> str | None:
    """Return why a file in no class folder is not an image; None if its name says it is."""
    if (kind := kind_of_file(name)) is not None:
        return kind
    suffix = Path(name).suffix.lower().rstrip()  # a space behind it is not part of it
    if suffix in SUFFIXES:
        return None
    if suffix in HEIC_SUFFIXES:
        return None if can_read_heic() else HEIC
    return "images of other formats" if suffix in _OTHER_IMAGES else OTHER_FILES


def is_link(entry: "os.DirEntry[str] | Path") -> bool:
    """Tell whether it is a link, or on Windows a junction, where Python (3.12) knows of those."""
    return entry.is_symlink() or getattr(entry, "is_junction", bool)()


def visible(
    entries: Iterable["os.DirEntry[str]"], left_out: Counter[str]
) -> Iterator["os.DirEntry[str]"]:
    """Yield the entries that are not hidden, and count hidden images and folders of images."""
    for entry in entries:
        if not entry.name.startswith("."):
            yield entry
        elif not entry.is_dir(follow_symlinks=False):
            if _is_called_image(entry.name):
                left_out[HIDDEN_IMAGES] += 1
        else:
            with contextlib.suppress(OSError):
                if any(map(_is_called_image, os.listdir(entry.path))):
                    left_out[HIDDEN_FOLDERS] += 1


def _is_called_image(name: str) -> bool:
    # `._a.jpg` holds notes of macOS on a.jpg.
    suffix = os.path.splitext(name)[1].lower()
    return not name.startswith("._") and suffix in SUFFIXES | HEIC_SUFFIXES


def in_words(counts: Mapping[str, int]) -> str:
    """Say what was left out and how many there are: "2 videos, 1 file of the system"."""
    listed = []
    for kind, count in sorted(counts.items()):
        if count:
            name = _PLURAL.sub(r"\1", kind, count=1) if count == 1 else kind
            listed.append(f"{count:,} {name}")
    return ", ".join(listed)

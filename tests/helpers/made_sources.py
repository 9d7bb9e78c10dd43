"""The same few pictures in every form in which images may come."""

import csv
import io
from pathlib import Path

import numpy as np
import photos
from made_shards import write_tar

KINDS = ("folder", "csv", "parquet", "hf folder", "hf parquet", "hf saved", "shards", "npz",
         "memmap")  # fmt: skip
CLASSES = ("dark", "light")
TRAIN, TEST = range(8), range(100, 104)  # numbers of the pictures of each class


def make(kind: str, root: Path, known: bool) -> str:
    """Make a data set; return its name for `--dataset`.

    Args:
        kind: One of `KINDS`.
        root: A new folder.
        known: Whether there are labels, and test images.
    """
    root.mkdir(parents=True)
    return _MAKERS[kind](root, known)


def rows(known: bool) -> list[tuple[str, str, int]]:
    """Return split, class and number of each picture."""
    parts = {"train": TRAIN, "test": TEST} if known else {"train": TRAIN}
    return [(part, c, n) for part, numbers in parts.items() for c in CLASSES for n in numbers]


def png(name: str, number: int) -> bytes:
    content = io.BytesIO()
    photos.picture(name, number).save(content, "PNG")
    return content.getvalue()


def called(name: str, number: int) -> str:
    return f"p{photos.NAMES.index(name)}-{number:03d}.png"


def _folder(root: Path, known: bool) -> str:
    for part, name, number in rows(known):
        inside = root / part / name if known else root / "unlabelled"
        inside.mkdir(parents=True, exist_ok=True)
        (inside / called(name, number)).write_bytes(png(name, number))
    return f"folder:{root}"


def _cells(root: Path, known: bool) -> list[dict[str, str]]:
    (root / "images").mkdir()
    cells = []
    for part, name, number in rows(known):
        (root / "images" / called(name, number)).write_bytes(png(name, number))
        label = name if known else ""
        cells.append({"path": f"images/{called(name, number)}", "label": label, "split": part})
    return cells


def _csv(root: Path, known: bool) -> str:
    with open(root / "table.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, ["path", "label", "split"])
        writer.writeheader()
        writer.writerows(_cells(root, known))
    return f"csv:{root / 'table.csv'}"


def _parquet(root: Path, known: bool) -> str:
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.Table.from_pylist(_cells(root, known))
    pyarrow.parquet.write_table(table, root / "table.parquet")
    return f"parquet:{root / 'table.parquet'}"


def tables_of(root: Path, known: bool):
    import datasets

    label = datasets.ClassLabel(names=[*CLASSES])
    features = datasets.Features({"image": datasets.Image(), "label": label})
    made = datasets.DatasetDict()
    for split in ("train", "test") if known else ("train",):
        some = [(name, number) for part, name, number in rows(known) if part == split]
        images = [{"bytes": png(*one), "path": called(*one)} for one in some]
        labels = [CLASSES.index(name) if known else None for name, _ in some]
        made[split] = datasets.Dataset.from_dict({"image": images, "label": labels}, features)
    return made


def _hf_folder(root: Path, known: bool) -> str:
    for part, name, number in rows(known):
        inside = root / part / name if known else root / "train"
        inside.mkdir(parents=True, exist_ok=True)
        (inside / called(name, number)).write_bytes(png(name, number))
    return f"hf:{root}"


def _hf_parquet(root: Path, known: bool) -> str:
    for split, table in tables_of(root, known).items():
        table.to_parquet(root / "data" / f"{split}-00000-of-00001.parquet")
    return f"hf:{root}"


def _hf_saved(root: Path, known: bool) -> str:
    tables_of(root, known).save_to_disk(root / "saved")
    return f"hf:{root / 'saved'}"


def _shards(root: Path, known: bool) -> str:
    for split in ("train", "test") if known else ("train",):
        files = []
        for part, name, number in rows(known):
            if part == split:
                files.append((called(name, number), png(name, number)))
                if known:
                    files.append((called(name, number)[:-4] + ".cls", name.encode()))
        write_tar(root / split / "00.tar", files)
    return f"shards:{root}"


def _arrays(known: bool) -> dict[str, np.ndarray]:
    arrays = {}
    for split in ("train", "test") if known else ("train",):
        some = [(name, number) for part, name, number in rows(known) if part == split]
        arrays[f"x_{split}"] = np.stack([np.asarray(photos.picture(*one)) for one in some])
        if known:
            arrays[f"y_{split}"] = np.array([CLASSES.index(name) for name, _ in some])
    return arrays | ({"classes": np.array(CLASSES)} if known else {})


def _npz(root: Path, known: bool) -> str:
    np.savez(root / "arrays.npz", **_arrays(known))
    return f"npz:{root / 'arrays.npz'}"


def _memmap(root: Path, known: bool) -> str:
    for name, array in _arrays(known).items():
        np.save(root / f"{name}.npy", array)
    return f"npz:{root}"


_MAKERS = {
    "folder": _folder,
    "csv": _csv,
    "parquet": _parquet,
    "hf folder": _hf_folder,
    "hf parquet": _hf_parquet,
    "hf saved": _hf_saved,
    "shards": _shards,
    "npz": _npz,
    "memmap": _memmap,
}

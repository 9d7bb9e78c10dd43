"""Write shards as WebDataset's writer does, with nothing but the standard library."""

import io
import tarfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image


def png(image: np.ndarray) -> bytes:
    """Encode `(h, w)` or `(h, w, 3)` uint8 without a loss."""
    out = io.BytesIO()
    Image.fromarray(image).save(out, "PNG")
    return out.getvalue()


def write_tar(path: Path, files: Iterable[tuple[str, bytes]], mtime: float = 0) -> Path:
    """Write a tar file of named contents."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in files:
            member = tarfile.TarInfo(name)
            member.size, member.mtime = len(content), mtime  # a fraction makes a header of its own
            tar.addfile(member, io.BytesIO(content))
    return path


def write_shards(
    root: Path,
    part: str,
    images: np.ndarray,
    labels: Iterable[object],
    per_shard: int = 10,
    mtime: float = 0.5,
) -> list[Path]:
    """Write images and labels to `part/00000.tar` and so on, a label of None left out."""
    labels, paths = list(labels), []
    for begin in range(0, len(images), per_shard):
        files = []
        for number in range(begin, min(begin + per_shard, len(images))):
            files.append((f"{number:06d}.png", png(images[number])))
            if labels[number] is not None:
                files.append((f"{number:06d}.cls", str(labels[number]).encode()))
        name = f"{begin // per_shard:05d}.tar"
        paths.append(write_tar(root / part / name, files, mtime))
    return paths

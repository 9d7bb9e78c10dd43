"""Images as a browser gets them: decoded and encoded anew, never the file itself."""

import io
import threading
from collections import OrderedDict
from pathlib import Path

import numpy as np
from PIL import Image

from alprune.data.image_cache.decode import Decoder
from alprune.errors import DataError
from alprune.labelling.question_files import place_of

_SIDE = 1600  # pixels, at most
_SMALL = 512  # up to so many pixels a side an image is sent without loss
_THUMB = 240  # pixels a side of a small preview
_KEPT = 16  # images ready to be sent again
_THUMBS_KEPT = 400  # small ones
_THREADS = 4


class Previews:
    """Makes previews of the files in a folder; safe from several threads.

    Args:
        root: The folder of images.
        follow_links: Whether links may lead out of it.
    """

    def __init__(self, root: Path, follow_links: bool = False) -> None:
        self._root, self._follow_links = root, follow_links
        self._decode = Decoder((_SIDE, _SIDE), _THREADS, proportions=True)
        self._kept: OrderedDict[str, tuple[bytes, str]] = OrderedDict()
        self._thumbs: OrderedDict[str, tuple[bytes, str]] = OrderedDict()
        self._lock = threading.Lock()

    def __call__(self, path: str, small: bool = False) -> tuple[bytes, str]:
        """Return an image and its media type.

        Args:
            path: Of the file, below the folder.
            small: A thumbnail.

        Raises:
            DataError: The file is not in the folder, or cannot be read as an image.
        """
        kept, most = (self._thumbs, _THUMBS_KEPT) if small else (self._kept, _KEPT)
        with self._lock:
            if path in kept:
                kept.move_to_end(path)
                return kept[path]
        place = place_of(self._root, path, self._follow_links)
        try:
            pixels = np.asarray(self._decode(place)[0])
        except Exception as error:  # decoders raise nearly everything on a damaged file
            raise DataError(f"{path!r} cannot be read: {error}.") from error
        image = Image.fromarray(pixels)
        if small:
            image.thumbnail((_THUMB, _THUMB))
        made = _encoded(image)
        with self._lock:
            kept[path] = made
            while len(kept) > most:
                kept.popitem(last=False)
        return made


def _encoded(image: Image.Image) -> tuple[bytes, str]:
    content = io.BytesIO()
    if max(image.size) <= _SMALL:
        image.save(content, "PNG")
        return content.getvalue(), "image/png"
    image.save(content, "JPEG", quality=90)
    return content.getvalue(), "image/jpeg"


__all__ = ["Previews"]

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
_KEPT = 16  # images ready to be sent again
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
        self._lock = threading.Lock()

    def __call__(self, path: str) -> tuple[bytes, str]:
        """Return an image and its media type.

        Raises:
            DataError: The file does not lie in the folder, or cannot be read as an image.
        """
        with self._lock:
            if path in self._kept:
                self._kept.move_to_end(path)
                return self._kept[path]
        place = place_of(self._root, path, self._follow_links)
        try:
            pixels = np.asarray(self._decode(place)[0])
        except Exception as error:  # decoders raise nearly everything on a damaged file
            raise DataError(f"{path!r} cannot be read: {error}.") from error
        made = _encoded(Image.fromarray(pixels))
        with self._lock:
            self._kept[path] = made
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        return made


def _encoded(image: Image.Image) -> tuple[bytes, str]:
    content = io.BytesIO()
    if max(image.size) <= _SMALL:
        image.save(content, "PNG")
        return content.getvalue(), "image/png"
    image.save(content, "JPEG", quality=90)
    return content.getvalue(), "image/jpeg"


__all__ = ["Previews"]

"""Images as a browser gets them: decoded and encoded anew, never the file itself."""

import io
import threading
from collections import OrderedDict

from PIL import Image

from alprune.data.image_cache.decode import Decoder
from alprune.labelling.pictures import Pictures

_SIDE = 1600  # pixels, at most
_SMALL = 512  # up to so many pixels a side an image is sent without loss
_THUMB = 240  # pixels a side of a small preview
_KEPT = 16  # images ready to be sent again
_THUMBS_KEPT = 400  # small ones
_THREADS = 4


class Previews:
    """Makes previews of images; safe from several threads.

    Args:
        pictures: Finds the images.
    """

    def __init__(self, pictures: Pictures) -> None:
        self._pictures = pictures
        self._decode = Decoder((_SIDE, _SIDE), _THREADS, proportions=True)
        self._kept: OrderedDict[tuple[str, str], tuple[bytes, str]] = OrderedDict()
        self._thumbs: OrderedDict[tuple[str, str], tuple[bytes, str]] = OrderedDict()
        self._lock = threading.Lock()

    def __call__(self, path: str, content: str = "", small: bool = False) -> tuple[bytes, str]:
        """Return an image and its media type.

        Args:
            path: Of the image.
            content: Its hash; empty: whatever is there.
            small: A thumbnail.

        Raises:
            DataError: It is not there, cannot be read, or is another one.
        """
        key = path, content
        kept, most = (self._thumbs, _THUMBS_KEPT) if small else (self._kept, _KEPT)
        with self._lock:
            if key in kept:
                kept.move_to_end(key)
                return kept[key]
        image = self._pictures.show(path, self._decode, content)
        image.thumbnail((_SIDE, _SIDE))
        if small:
            image.thumbnail((_THUMB, _THUMB))
        made = _encoded(image)
        with self._lock:
            kept[key] = made
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

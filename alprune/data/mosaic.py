"""Images laid out in rows and columns."""

from collections.abc import Sequence

from PIL import Image

Cells = Sequence[Sequence[Image.Image | None]]


def mosaic(cells: Cells, size: tuple[int, int], gap: int, below: int = 0) -> Image.Image:
    """Lay images out, each in the middle of its cell.

    Args:
        cells: Rows of as many images each; None leaves a cell empty.
        size: `(width, height)` of a cell in pixels; no image is larger.
        gap: Pixels between cells, half of it around the whole.
        below: Pixels left free below each cell, for a caption.

    Returns:
        RGBA, transparent where there is no image.
    """
    (width, height), (left, top) = size, (gap // 2, gap // 2)
    across, down = width + gap, height + gap + below
    sheet = Image.new("RGBA", (across * len(cells[0]), down * len(cells)))
    for row, images in enumerate(cells):
        for column, image in enumerate(images):
            if image is not None:
                x = column * across + left + (width - image.width) // 2
                y = row * down + top + (height - image.height) // 2
                sheet.paste(image, (x, y))
    return sheet

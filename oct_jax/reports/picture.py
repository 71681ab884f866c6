"""Contact sheets: many scans on one picture, for the eye."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont, ImageOps

__all__ = ["contact_sheet"]

_BACKGROUND, _INK, _WARNING = (40, 40, 44), (235, 235, 235), (255, 196, 0)
_CAPTION_HEIGHT = 18
_GAP = 4
_MARK = "SYNTHETIC"


def contact_sheet(
    images: Sequence[np.ndarray],
    captions: Sequence[str],
    *,
    columns: int = 6,
    tile: int = 224,
    synthetic: bool = False,
) -> UInt8[np.ndarray, "height width 3"]:
    """Lay images out in rows, each whole and in its own aspect ratio above its caption.

    Args:
      images: uint8, each (rows, columns) grey or (rows, columns, 3) RGB, of any size.
      captions: one for each image; what is wider than a tile is cut off.
      columns: images in a row; a shorter list gives a narrower sheet.
      tile: side of the square that an image is fitted into, pixels.
      synthetic: write SYNTHETIC into every tile, so that a cut-out keeps the mark.

    Returns:
      uint8 RGB of shape (height, width, 3).

    Raises:
      ValueError: no images, or not as many captions.
    """
    if not images or len(images) != len(captions):
        raise ValueError(f"{len(images)} images and {len(captions)} captions")
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    across, down = tile + _GAP, tile + _CAPTION_HEIGHT + _GAP
    sheet = Image.new("RGB", (columns * across + _GAP, rows * down + _GAP), _BACKGROUND)
    for number, (image, caption) in enumerate(zip(images, captions, strict=True)):
        row, column = divmod(number, columns)
        place = (_GAP + column * across, _GAP + row * down)
        sheet.paste(_captioned(image, caption, tile, synthetic), place)
    return np.array(sheet)


def _captioned(image: np.ndarray, caption: str, tile: int, synthetic: bool) -> Image.Image:
    font = ImageFont.load_default(12)
    square = ImageOps.pad(Image.fromarray(image).convert("RGB"), (tile, tile), color=_BACKGROUND)
    framed = Image.new("RGB", (tile, tile + _CAPTION_HEIGHT), _BACKGROUND)
    framed.paste(square)
    draw = ImageDraw.Draw(framed)
    draw.text((2, tile + 1), caption, _INK, font)
    if synthetic:
        draw.text((tile - 2, 2), _MARK, _WARNING, font, "ra", stroke_width=1, stroke_fill="black")
    return framed

"""A picture of many images, each with a line of text below it, some of them marked.

Shapes: N images, C channels, H x W pixels.
"""

import math
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from vitgan.engine.images import GAP, enlargement

GROUND, INK, MARK = (238, 238, 238), (40, 40, 40), (200, 20, 20)
TEXT_SIZE, TEXT_HEIGHT = 12, 16  # pixels
FRAME = 2  # pixels, around a marked image


def captioned(images: Tensor, captions: Sequence[str], marked: Sequence[bool]) -> Image.Image:
    """`images` uint8 (N, C, H, W), C 1 or 3, row by row; a marked one has a red frame and a red caption."""
    font = ImageFont.load_default(TEXT_SIZE)
    scale = enlargement(max(images.shape[2:]))
    height, width = scale * images.shape[2], scale * images.shape[3]
    column = max(width, *(math.ceil(font.getlength(caption)) for caption in captions)) + 2 * (FRAME + GAP)
    row = height + TEXT_HEIGHT + 2 * (FRAME + GAP)
    columns = math.ceil(math.sqrt(len(images)))
    picture = Image.new("RGB", (columns * column, math.ceil(len(images) / columns) * row), GROUND)
    pen = ImageDraw.Draw(picture)
    for index, pixels in enumerate(images.cpu().expand(-1, 3, -1, -1).permute(0, 2, 3, 1).numpy()):
        left, top = index % columns * column + (column - width) // 2, index // columns * row + GAP + FRAME
        if marked[index]:
            pen.rectangle((left - FRAME, top - FRAME, left + width + 1, top + height + 1), MARK)
        tile = Image.fromarray(pixels).resize((width, height), Image.Resampling.NEAREST)
        picture.paste(tile, (left, top))
        place = (left + width / 2, top + height + FRAME)
        pen.text(place, captions[index], MARK if marked[index] else INK, font, anchor="ma")
    return picture

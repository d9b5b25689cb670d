"""The one transform of all sources: from an opened picture of any kind to uint8 pixels of one size.

Shapes: C channels, R resolution.
"""

import functools
import io
from contextlib import suppress
from typing import IO, Any

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError, features

# The formats that are read, as Pillow calls them, and how the names of their files end. TGA comes last: its
# files begin with nothing that tells them from others.
FORMATS = {
    "PNG": (".png", ".apng"),
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".mpo"),
    "WEBP": (".webp",),
    "BMP": (".bmp",),
    "DIB": (".dib",),
    "GIF": (".gif",),
    "TIFF": (".tif", ".tiff"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm", ".pfm"),
    "JPEG2000": (".jp2", ".j2k", ".jpf", ".jpx", ".jpc", ".j2c"),
    "AVIF": (".avif", ".avifs"),
    "HEIF": (".heic", ".heif", ".hif"),
    "QOI": (".qoi",),
    "PCX": (".pcx",),
    "SGI": (".sgi",),
    "TGA": (".tga", ".icb", ".vda", ".vst"),
}
UNTOLD = ("TGA", "PCX", "DIB")  # formats that hardly differ from any other file in their first bytes
NEEDED = {"WEBP": "webp", "JPEG2000": "jpg_2000", "AVIF": "avif"}  # what Pillow may have been built without
MAX_PIXELS = 64_000_000
MAX_BYTES = 2**28  # bytes of an encoded picture
MIN_SIDE = 2  # pixels
REDUCING_GAP = 3.0  # a cheap box reduction may bring a picture down to this many times its final side


class UnreadableImage(Exception):
    """Raised for a picture that cannot be used; the text is the reason, as one clause."""


@functools.cache
def readable_formats() -> tuple[str, ...]:
    """Those of FORMATS that the installed Pillow decodes, HEIF where the library pillow-heif is there."""
    with suppress(ImportError):
        import pillow_heif  # pyright: ignore[reportMissingImports]

        pillow_heif.register_heif_opener()
    Image.init()
    known = [name for name in FORMATS if name in Image.OPEN]
    return tuple(name for name in known if name not in NEEDED or features.check(NEEDED[name]))


@functools.cache
def readable_suffixes() -> tuple[str, ...]:
    """How the names of files end that can be decoded, in lower case with the dot."""
    return tuple(suffix for name in readable_formats() for suffix in FORMATS[name])


def is_image(file: IO[bytes]) -> bool:
    """Whether an open file begins as one of an image format that its first bytes tell."""
    beginning = file.read(64)
    tests = (Image.OPEN[name][1] for name in readable_formats() if name not in UNTOLD)
    return any(test is not None and test(beginning) is True for test in tests)


def reason(error: Exception) -> str:
    """The text of an error on one line, or its type where it has none."""
    return " ".join(str(error).split()) or type(error).__name__


def read_bounded(file: IO[bytes], most: int = MAX_BYTES) -> bytes:
    """The content of a file. Raises UnreadableImage, before reading all, where it has over `most` bytes."""
    pieces, size = [], 0
    while piece := file.read(2**20):
        pieces.append(piece)
        size += len(piece)
        if size > most:
            raise UnreadableImage(f"it is larger than {most // 2**20} MiB")
    return b"".join(pieces)


def open_image(data: bytes) -> Image.Image:
    """Open an encoded picture; its content tells the format, not a suffix, and only its header is read.

    Raises UnreadableImage where it is empty, of no known format, or above 64 megapixels.
    """
    if not data:
        raise UnreadableImage("the file is empty")
    try:
        image = Image.open(io.BytesIO(data), formats=readable_formats())
    except UnidentifiedImageError:
        raise UnreadableImage("it is no image of a known format") from None
    except Image.DecompressionBombError:
        raise UnreadableImage("it is larger than 64 megapixels") from None
    return image


def to_pixels(image: Image.Image, resolution: int, channels: int) -> np.ndarray:
    """A picture as uint8 (C, R, R): upright, in `channels`, its centre square, resized with antialiasing.

    The square has the shorter side of the picture, so CelebA's 178 x 218 pixels give the usual 178 x 178.
    Downscaling is Lanczos, upscaling bicubic. Transparency is laid over white, 16-bit samples are scaled to
    8 bits, an animation gives its first frame, grey is the ITU-R BT.601 luminance, and colour profiles are
    ignored. Raises UnreadableImage above 64 megapixels or below 2 pixels a side, and whatever Pillow raises
    on damaged data.
    """
    image = _decoded(image, int(resolution * REDUCING_GAP), "L" if channels == 1 else "RGB")
    image = _square(image, resolution)
    pixels = np.asarray(image).reshape(resolution, resolution, channels)  # (R, R, C)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))  # (C, R, R)


def to_rgb(image: Image.Image, least: int) -> Image.Image:
    """A picture of its own size, upright and in RGB by the rules of `to_pixels`, whose errors it raises.

    A JPEG may come smaller, decoded at 1/2, 1/4 or 1/8, but not below `least` pixels a side.
    """
    return _decoded(image, least, "RGB")


def _decoded(image: Image.Image, least: int, mode: str) -> Image.Image:
    _check_size(image)
    image.draft(None, (least, least))  # a JPEG is decoded at 1/2, 1/4 or 1/8 where that is large enough
    return _convert(_upright(image), mode)


def _check_size(image: Image.Image) -> None:
    if image.width * image.height > MAX_PIXELS:
        raise UnreadableImage("it is larger than 64 megapixels")
    if min(image.size) < MIN_SIDE:
        raise UnreadableImage(f"it has {image.width} x {image.height} pixels, fewer than {MIN_SIDE} a side")


def _upright(image: Image.Image) -> Image.Image:
    image.load()
    with suppress(SyntaxError, ValueError, TypeError, KeyError, OverflowError):
        # A damaged EXIF block says nothing about the pixels, which have just been read.
        if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
            ImageOps.exif_transpose(image, in_place=True)
    return image


def _convert(image: Image.Image, mode: str) -> Image.Image:
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        image = _to_8_bits(image)
    elif image.has_transparency_data:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    if image.mode in ("P", "PA"):
        image = image.convert("RGB")
    return image if image.mode == mode else image.convert(mode)


def _to_8_bits(image: Image.Image) -> Image.Image:
    """Integers of 16 bits, or floats from 0 to 1, as 0 to 255. Raises UnreadableImage for any others."""
    values: np.ndarray[Any, Any] = np.asarray(image).astype(np.float64)
    if image.mode == "F":
        values = values * 65535.0
    if not (values.min() >= 0 and values.max() <= 65535):
        raise UnreadableImage("its values lie outside 0 to 65535 (integers) or 0 to 1 (floats)")
    return Image.fromarray(np.rint(values / 257.0).astype(np.uint8))


def _square(image: Image.Image, resolution: int) -> Image.Image:
    """The centre square, of the shorter side of the picture, at `resolution` pixels a side."""
    side = min(image.size)
    if image.size != (side, side):
        left, top = (image.width - side) // 2, (image.height - side) // 2
        image = image.crop((left, top, left + side, top + side))
    if side == resolution:
        return image
    kernel = Image.Resampling.LANCZOS if side > resolution else Image.Resampling.BICUBIC
    return image.resize((resolution, resolution), kernel, reducing_gap=REDUCING_GAP)

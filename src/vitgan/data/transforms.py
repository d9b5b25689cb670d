"""The one transform of all sources: from an opened picture of any kind to uint8 pixels of one size.

Shapes: C channels, R resolution.
"""

import functools
import io
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
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


@dataclass(frozen=True)
class White:
    """The values that stand for white in pictures of more than 8 bits a sample.

    bits16, bits32: of integers of so many bits; floats: of floats.
    """

    bits16: int = 65535
    bits32: int = 65535
    floats: float = 1.0


WHITE = White()
_BITS = (1.0, 255.0, 1023.0, 4095.0, 16383.0, 65535.0)  # white of 1, 8, 10, 12, 14 and 16 bits
WHITES = {"I;16": _BITS, "I": _BITS, "F": (1.0, 255.0, 65535.0)}  # by Pillow's mode
MOST_NAMED = 5  # dark pictures in one sentence
TENTH = 0.1  # of the range from black to white, below which a set or a picture is dark or flat
LOOKED_AT, LOOKED_AGAIN = 32, 1024  # pictures of a set, and those of one whose white is unusual


@dataclass(frozen=True)
class Look:
    """What some pictures of a set, spread over it, say of the range of its values.

    count: of these pictures; white: of those with more than 8 bits a sample; dark: the names of those of them
    that stay below a tenth of white; lowest, highest: 8-bit values among all.
    """

    count: int = 0
    white: White = WHITE
    dark: tuple[str, ...] = ()
    lowest: int = 0
    highest: int = 255

    def notes(self) -> list[str]:
        """What is to be said of it, as sentences that begin with "its"."""
        said = []
        whites = {"integers of 16 bits": "bits16", "integers of 32 bits": "bits32", "floats": "floats"}
        for kind, field in whites.items():
            if (white := getattr(self.white, field)) != getattr(WHITE, field):
                said.append(
                    f"its images of {kind} hold values up to about {white:g}, which is taken for white"
                )
        if self.dark:
            more = ", …" if len(self.dark) > MOST_NAMED else ""
            named = ", ".join(self.dark[:MOST_NAMED]) + more
            said.append(
                "its images of more than 8 bits come out black, or nearly "
                f"({len(self.dark)} of the {self.count} looked at, {named}): where their values have fewer "
                "bits than the others', write them with 8 bits"
            )
        if self.count and self.highest - self.lowest < TENTH * 255:
            said.append(
                f"its values go from {self.lowest} to {self.highest} alone, where 0 is black and 255 white: "
                "if that is not meant, stretch them"
            )
        return said


def look_at(pictures: Iterable[tuple[str, Image.Image]]) -> Look:
    """Look at some pictures of a set, by name; one that is damaged is passed over."""
    ranges: list[tuple[str, str, float, float]] = []  # name, kind, lowest and highest
    for name, picture in pictures:
        with suppress(Exception):  # decoders raise almost anything on damaged data
            _check_size(picture)
            if kind := _depth(picture):
                values = np.asarray(picture)
            else:
                kind, values = "", np.asarray(_decoded(picture, 64, "L"))
            if values.min() >= 0:
                ranges.append((name, kind, float(values.min()), float(values.max())))
    scale = {"": 255.0, **{kind: _white_of(ranges, kind) for kind in WHITES}}
    white = White(bits16=int(scale["I;16"]), bits32=int(scale["I"]), floats=scale["F"])
    shares = [(name, kind, low / scale[kind], high / scale[kind]) for name, kind, low, high in ranges]
    return Look(
        count=len(shares),
        white=white,
        dark=tuple(name for name, kind, _, high in shares if kind and high < TENTH),
        lowest=round(255 * min((low for _, _, low, _ in shares), default=0)),
        highest=round(255 * min(1.0, max((high for _, _, _, high in shares), default=1))),
    )


def _white_of(ranges: Iterable[tuple[str, str, float, float]], kind: str) -> float:
    """White of a kind of pictures: the least of the usual ones that none of them exceeds.

    Of floats it is 1 unless all of them exceed that, so that some that do are named and the others kept.
    """
    highs = [high for _, own, _, high in ranges if own == kind]
    usual, top = WHITES[kind], (min if kind == "F" else max)(highs, default=None)
    if top is None or (kind == "F" and top <= 1):
        return usual[-1] if kind != "F" else usual[0]
    return next((white for white in usual if white >= max(highs)), usual[-1])


def _depth(image: Image.Image) -> str:
    """Which of WHITES a picture of more than 8 bits a sample is; "" for any other."""
    kind = "I;16" if image.mode.startswith("I;16") else image.mode
    return kind if kind in WHITES else ""


def to_pixels(image: Image.Image, resolution: int, channels: int, white: White = WHITE) -> np.ndarray:
    """A picture as uint8 (C, R, R): upright, in `channels`, its centre square, resized with antialiasing.

    The square has the shorter side of the picture, so CelebA's 178 x 218 pixels give the usual 178 x 178.
    Downscaling is Lanczos, upscaling bicubic. Transparency is laid over white, samples of more than 8 bits
    are scaled to 8 by `white`, an animation gives its first frame, grey is the ITU-R BT.601 luminance, and
    colour profiles are ignored. Raises UnreadableImage above 64 megapixels or below 2 pixels a side, and
    whatever Pillow raises on damaged data.
    """
    image = _decoded(image, int(resolution * REDUCING_GAP), "L" if channels == 1 else "RGB", white)
    image = _square(image, resolution)
    pixels = np.asarray(image).reshape(resolution, resolution, channels)  # (R, R, C)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))  # (C, R, R)


def to_rgb(image: Image.Image, least: int, white: White = WHITE) -> Image.Image:
    """A picture of its own size, upright and in RGB by the rules of `to_pixels`, whose errors it raises.

    A JPEG may come smaller, decoded at 1/2, 1/4 or 1/8, but not below `least` pixels a side.
    """
    return _decoded(image, least, "RGB", white)


def _decoded(image: Image.Image, least: int, mode: str, white: White = WHITE) -> Image.Image:
    _check_size(image)
    image.draft(None, (least, least))  # a JPEG is decoded at 1/2, 1/4 or 1/8 where that is large enough
    return _convert(_upright(image), mode, white)


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


def _convert(image: Image.Image, mode: str, white: White) -> Image.Image:
    if _depth(image):
        image = _to_8_bits(image, white)
    elif image.has_transparency_data:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    if image.mode in ("P", "PA"):
        image = image.convert("RGB")
    return image if image.mode == mode else image.convert(mode)


def _to_8_bits(image: Image.Image, white: White) -> Image.Image:
    """Integers or floats from 0 to white as 0 to 255. Raises UnreadableImage for any others."""
    values: np.ndarray[Any, Any] = np.asarray(image).astype(np.float64)
    most = {"F": white.floats, "I": white.bits32}.get(image.mode, white.bits16)
    if not (values.min() >= 0 and values.max() <= most):
        kind = "floats" if image.mode == "F" else "integers"
        raise UnreadableImage(
            f"its values are {kind} from {values.min():g} to {values.max():g}, but must lie in 0 to {most:g}"
        )
    if image.mode == "F" and most == WHITE.floats:  # through 16 bits
        values, most = values * WHITE.bits16, WHITE.bits16
    return Image.fromarray(np.rint(values * (255.0 / most)).astype(np.uint8))


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

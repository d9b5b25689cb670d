"""`to_pixels`, the one transform for pictures of every kind."""

import io

import numpy as np
import pytest
from PIL import Image

from vitgan.data.transforms import MAX_PIXELS, UnreadableImage, open_image, to_pixels


def encoded(image: Image.Image, kind: str, **options: object) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return open_image(buffer.getvalue())


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM"])
def test_same_size_keeps_every_value(kind: str) -> None:
    pixels = noise(8, 8, 3)
    assert np.array_equal(to_pixels(encoded(Image.fromarray(pixels), kind), 8, 3), pixels.transpose(2, 0, 1))


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "GIF"])
def test_lossy_kinds_come_close(kind: str) -> None:
    image = encoded(Image.new("RGB", (16, 16), (200, 100, 50)), kind)
    pixels = to_pixels(image, 8, 3).astype(int)
    assert np.abs(pixels - np.array([200, 100, 50])[:, None, None]).max() <= 4


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "CMYK", "YCbCr", "I", "I;16", "F"])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_mode_gives_white_and_black_where_they_are(mode: str, channels: int) -> None:
    grey = np.zeros((4, 8), dtype=np.uint8)
    grey[:, 4:] = 255
    if mode in ("I", "I;16", "F"):
        scale, kind = {"I": (257, np.int32), "I;16": (257, np.uint16), "F": (1 / 255, np.float32)}[mode]
        image = Image.fromarray((grey * np.float64(scale)).astype(kind))
    else:
        image = Image.fromarray(grey).convert("RGB").convert(mode)
    assert image.mode == mode
    pixels = to_pixels(image, 4, channels)
    assert pixels.shape == (channels, 4, 4)
    assert np.array_equal(pixels, np.broadcast_to(grey[:, 2:6], pixels.shape))


def test_sixteen_bit_png_is_scaled() -> None:
    values = (np.arange(16, dtype=np.uint16) * 4369).reshape(4, 4)
    assert np.array_equal(to_pixels(encoded(Image.fromarray(values), "PNG"), 4, 1)[0], values // 257)


def test_sixteen_bit_tiff_and_pgm_are_scaled() -> None:
    values = np.full((4, 4), 0x8080, dtype=np.uint16)
    for kind in ("TIFF", "PPM"):
        assert np.all(to_pixels(encoded(Image.fromarray(values), kind), 4, 1) == 0x80)


def test_transparency_is_laid_over_white() -> None:
    pixels = np.zeros((4, 4, 4), dtype=np.uint8)
    pixels[:2, :, 3] = 255
    result = to_pixels(encoded(Image.fromarray(pixels), "PNG"), 4, 3)
    assert np.all(result[:, :2] == 0)
    assert np.all(result[:, 2:] == 255)


def test_transparent_palette_entry_is_white() -> None:
    image = Image.new("P", (4, 4), 1)
    image.putpalette([255, 0, 0, 0, 0, 255])
    result = to_pixels(encoded(image, "PNG", transparency=1), 4, 3)
    assert np.all(result == 255)


def test_the_first_frame_of_an_animation_counts() -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    image = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert to_pixels(image, 4, 3)[:, 0, 0].tolist() == [255, 0, 0]


def test_grey_is_luminance() -> None:
    assert to_pixels(Image.new("RGB", (4, 4), (0, 255, 0)), 4, 1)[0, 0, 0] == 150


@pytest.mark.parametrize(("orientation", "turns"), [(1, 0), (3, 2), (6, -1), (8, 1)])
def test_exif_orientation_is_applied(orientation: int, turns: int) -> None:
    pixels = np.zeros((16, 16, 3), dtype=np.uint8)
    pixels[:8, :8] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = encoded(Image.fromarray(pixels), "JPEG", exif=exif, quality=95)
    wanted = np.rot90(pixels, turns).transpose(2, 0, 1).astype(int)
    assert np.abs(to_pixels(image, 16, 3) - wanted).mean() < 8


def test_a_damaged_exif_block_does_not_cost_the_image() -> None:
    image = encoded(Image.new("RGB", (8, 8), "red"), "JPEG", exif=b"Exif\0\0not a header at all")
    assert to_pixels(image, 8, 3)[0].min() > 240


def test_the_centre_square_is_cut() -> None:
    pixels = np.zeros((218, 178, 3), dtype=np.uint8)
    pixels[20:198] = 255
    assert np.all(to_pixels(Image.fromarray(pixels), 64, 3) == 255)
    assert np.all(to_pixels(Image.fromarray(pixels.transpose(1, 0, 2)), 64, 3) == 255)


@pytest.mark.parametrize("side", [16, 64])
def test_a_checkerboard_is_averaged(side: int) -> None:
    """Without antialiasing a one-pixel checkerboard gives black, white or a pattern."""
    board = (np.indices((side, side)).sum(0) % 2 * 255).astype(np.uint8)
    small = to_pixels(Image.fromarray(board), side // 4, 1)[0].astype(int)
    inner = small[1:-1, 1:-1]
    assert np.abs(inner - 127.5).max() < 8


def test_a_large_jpeg_agrees_with_its_png() -> None:
    """Decoding a JPEG at a reduced size, which is faster, changes its pixels little."""
    smooth = Image.fromarray(noise(12, 12, 3)).resize((480, 480), Image.Resampling.BICUBIC)
    fast = to_pixels(encoded(smooth, "JPEG", quality=95, subsampling=0), 16, 3).astype(int)
    slow = to_pixels(encoded(smooth, "PNG"), 16, 3)
    assert np.abs(fast - slow).mean() < 1.5


def test_upscaling_keeps_a_flat_image_flat() -> None:
    assert np.all(to_pixels(Image.new("RGB", (3, 5), (9, 8, 7)), 16, 3)[1] == 8)


def test_too_large_is_refused_before_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    image = Image.new("1", (8001, 8000))
    assert image.width * image.height > MAX_PIXELS
    monkeypatch.setattr(Image.Image, "load", lambda _self: pytest.fail("decoded"))
    with pytest.raises(UnreadableImage, match="64 megapixels"):
        to_pixels(image, 4, 3)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_decompression_bomb_is_refused() -> None:
    header = b"P5 20000 20000 255\n"
    with pytest.raises(UnreadableImage, match="64 megapixels"):
        open_image(header)


def test_one_pixel_a_side_is_refused() -> None:
    with pytest.raises(UnreadableImage, match="1 x 9 pixels"):
        to_pixels(Image.new("RGB", (1, 9)), 4, 3)


def test_integers_beyond_16_bits_are_refused() -> None:
    with pytest.raises(UnreadableImage, match="65535"):
        to_pixels(Image.fromarray(np.full((4, 4), 70000, dtype=np.int32)), 4, 1)

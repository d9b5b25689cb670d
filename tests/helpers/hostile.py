"""Files that are made to do harm: pickles that leave a trace, and pictures that would fill the memory."""

import io
import os
import pickle
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image


class Trap:
    """Unpickled, it makes the folder `trace`."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.trace),)


def _torch(trap: Trap) -> bytes:
    buffer = io.BytesIO()
    torch.save({"fc.weight": torch.zeros(2), "more": trap}, buffer)
    return buffer.getvalue()


def _torch_old(trap: Trap) -> bytes:
    buffer = io.BytesIO()
    torch.save({"more": trap}, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


def _array(trap: Trap) -> np.ndarray:
    found = np.empty(2, dtype=object)
    found[:] = trap
    return found


def _npy(trap: Trap) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, _array(trap), allow_pickle=True)
    return buffer.getvalue()


def _npz(trap: Trap) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=True, images=np.zeros((2, 8, 8), np.uint8), labels=_array(trap))
    return buffer.getvalue()


def pickles(trace: Path) -> dict[str, bytes]:
    """File names and contents, each of which makes the folder `trace` when it is loaded with trust."""
    trap = Trap(trace)
    yaml = f'!!python/object/apply:os.mkdir ["{trace}"]\n'
    return {
        "new.pt": _torch(trap),
        "old.pth": _torch_old(trap),
        "plain.pkl": pickle.dumps(trap),
        "plain.zip": pickle.dumps(trap),
        "objects.npy": _npy(trap),
        "objects.npz": _npz(trap),
        "apply.yaml": yaml.encode(),
    }


def _chunk(kind: bytes, content: bytes) -> bytes:
    body = kind + content
    return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))


def png(side: int, *chunks: bytes) -> bytes:
    """A PNG whose header says side x side pixels, and which holds hardly any."""
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    data = _chunk(b"IDAT", zlib.compress(b"\x00" * 1000))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + data + _chunk(b"IEND", b"")


def _encoded(kind: str) -> bytearray:
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16)).save(buffer, kind)
    return bytearray(buffer.getvalue())


def _jpeg() -> bytes:
    content = _encoded("JPEG")
    at = content.index(b"\xff\xc0") + 5
    content[at : at + 4] = struct.pack(">HH", 65000, 65000)
    return bytes(content)


def _gif(screen: int, frame: int) -> bytes:
    head = b"GIF89a" + struct.pack("<HHBBB", screen, screen, 0x80, 0, 0) + b"\x00" * 6
    picture = b"," + struct.pack("<HHHHB", 0, 0, frame, frame, 0)
    return head + picture + b"\x02\x02\x4c\x01\x00;"


def _tiff() -> bytes:
    tags = {256: 60_000, 257: 60_000, 258: 8, 259: 8, 262: 1, 273: 8, 277: 1, 278: 60_000, 279: 8}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return b"II*\x00" + struct.pack("<IQH", 16, 0, len(tags)) + entries + b"\x00" * 4


def _bmp() -> bytes:
    content = _encoded("BMP")
    content[18:26] = struct.pack("<ii", 60_000, 60_000)
    return bytes(content)


def _webp() -> bytes:
    side = (60_000).to_bytes(3, "little")
    extended = b"VP8X" + struct.pack("<I", 10) + bytes(4) + side + side
    picture = bytes(_encoded("WEBP"))[12:]
    body = b"WEBP" + extended + picture
    return b"RIFF" + struct.pack("<I", len(body)) + body


def pictures() -> dict[str, bytes]:
    """Small files that ask for gigabytes, by their pixels or by what is packed beside them."""
    bomb = zlib.compress(bytes(2**28), 9)
    found = {
        "pixels.png": png(60_000),
        "text.png": png(8, _chunk(b"zTXt", b"note\x00\x00" + bomb)),
        "profile.png": png(8, _chunk(b"iCCP", b"note\x00\x00" + bomb)),
        "words.png": png(8, _chunk(b"iTXt", b"note\x00\x01\x00\x00\x00" + bomb)),
        "pixels.jpg": _jpeg(),
        "screen.gif": _gif(65_000, 8),
        "frame.gif": _gif(8, 65_000),
        "pixels.tif": _tiff(),
        "pixels.bmp": _bmp(),
        "canvas.webp": _webp(),
        "pixels.ppm": b"P6 60000 60000 255\n" + bytes(100),
    }
    assert max(map(len, found.values())) < 2**19
    return found

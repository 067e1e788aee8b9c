"""A real photo in every format that is read, made here from tests/pictures."""

import io
import struct
import zlib
from functools import cache
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pillow_heif
import tifffile
from numpy.typing import NDArray
from PIL import Image

PHOTOS = sorted((Path(__file__).parent / "pictures").glob("*.jpg"))


def photo(width: int = 96, height: int = 64) -> Image.Image:
    """A small photo, RGB, without metadata."""
    with Image.open(PHOTOS[0]) as image:
        return Image.fromarray(np.asarray(image.convert("RGB").resize((width, height))))


def encode(image: Image.Image, format: str, **options: Any) -> bytes:
    """The bytes of a file as Pillow writes it."""
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def tiff(values: NDArray[Any], **options: Any) -> bytes:
    """The bytes of a TIFF as tifffile writes it."""
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, values, **options)
    return buffer.getvalue()


def heic(image: Image.Image, **options: Any) -> bytes:
    """The bytes of a HEIC file as phones write it."""
    buffer = io.BytesIO()
    pillow_heif.from_pillow(image).save(buffer, **{"quality": 90, **options})
    return buffer.getvalue()


def png_chunk(kind: bytes, data: bytes) -> bytes:
    """One chunk of a PNG, checksum included."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def interlaced_png(picture: NDArray[np.uint8]) -> bytes:
    """uint8 [H, W, 3] as a PNG in the seven passes of Adam7."""
    passes = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
    rows = b""
    for top, left, down, right in passes:
        part = picture[top::down, left::right]
        rows += b"".join(b"\0" + row.tobytes() for row in part if row.size)
    header = struct.pack(">IIBBBBB", picture.shape[1], picture.shape[0], 8, 2, 0, 0, 1)
    chunks = png_chunk(b"IHDR", header) + png_chunk(b"IDAT", zlib.compress(rows)) + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


@cache
def every_format() -> dict[str, bytes]:
    """The same photo as files of every format and variant."""
    image = photo()
    grey, rgba, palette = image.convert("L"), image.convert("RGBA"), image.convert("P")
    colours = np.asarray(image)
    deep = colours.astype(np.uint16) * 257
    return {
        "jpeg": encode(image, "JPEG"),
        "jpeg progressive": encode(image, "JPEG", progressive=True),
        "jpeg grey": encode(grey, "JPEG"),
        "jpeg cmyk": encode(image.convert("CMYK"), "JPEG"),
        "png": encode(image, "PNG"),
        "png palette": encode(palette, "PNG"),
        "png alpha": encode(rgba, "PNG"),
        "png interlaced": interlaced_png(colours),
        "png 16-bit": imagecodecs.png_encode(deep),
        "png 16-bit grey": imagecodecs.png_encode(deep[:, :, 1].copy()),
        "webp": encode(image, "WEBP"),
        "webp lossless": encode(image, "WEBP", lossless=True),
        "avif": encode(image, "AVIF"),
        "heic": heic(image),
        "gif": encode(image, "GIF"),
        "bmp": encode(image, "BMP"),
        "ppm": encode(image, "PPM"),
        "jpeg 2000": encode(image, "JPEG2000"),
        "tiff": encode(image, "TIFF"),
        "tiff lzw": encode(image, "TIFF", compression="tiff_lzw"),
        "tiff jpeg": encode(image, "TIFF", compression="jpeg"),
        "tiff 16-bit": tiff(deep, photometric="rgb"),
        "tiff 16-bit lzw": tiff(deep, photometric="rgb", compression="lzw", predictor=True),
        "tiff 16-bit tiles": tiff(
            np.ascontiguousarray(deep.transpose(2, 0, 1)),
            photometric="rgb",
            planarconfig="separate",
            tile=(32, 32),
            compression="zlib",
        ),
        "tiff 16-bit grey": tiff(deep[:, :, 1]),
        "tiff float": tiff(colours.astype(np.float32) / 255, photometric="rgb"),
        "tiff big": tiff(deep, photometric="rgb", bigtiff=True, compression="zstd"),
    }

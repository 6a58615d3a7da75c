# ruff: noqa: TID253
"""The one place that reads pictures: any file becomes uint8 RGB [H, W, 3], upright.

EXIF orientation is applied; gray is repeated three times; 16 bits are divided by 257 (65535 becomes 255); an alpha
channel is dropped, the colours below it stay as stored; palettes and CMYK become RGB; of an animation the first frame
is taken. A file that is damaged, even where a lenient decoder would fill the rest with gray, raises ImageError.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray

from detloom.data.headers import Header, parse_header, png_is_sound
from detloom.data.pixel_limit import VARIABLE, max_pixels
from detloom.errors import DataError

# Remarks of the strict JPEG decoder about files whose pixels are all there: phones write odd scan parameters, and a
# few stray bytes before the end marker.
_HARMLESS = re.compile(r"Invalid SOS parameters|: [1-4] extraneous bytes before marker 0xd9")

cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


class ImageError(DataError):
    """A picture that cannot be read. code: `missing-image`, `corrupt-image`, `truncated-image`, `image-too-large`,
    `unsupported-image`; reason: without the file's name."""

    def __init__(self, code: str, reason: str, name: str) -> None:
        super().__init__(f"{name}: {reason}", hint="repair or remove the file, then run the check again")
        self.code = code
        self.reason = reason


@dataclass(frozen=True, slots=True)
class ImageProbe:
    """width, height: upright, in pixels. raw_width, raw_height: as stored. orientation: EXIF 1 to 8."""

    width: int
    height: int
    raw_width: int
    raw_height: int
    orientation: int
    mode: str


def read_image(path: Path) -> NDArray[np.uint8]:
    """uint8 RGB [H, W, 3], upright. Raises ImageError."""
    return decode_image(_read_bytes(path), str(path))


def probe_image(path: Path) -> ImageProbe:
    """Size and orientation from the file's header (rare formats are decoded). Raises ImageError."""
    return probe_bytes(_read_bytes(path), str(path))


def probe_bytes(data: bytes, name: str) -> ImageProbe:
    header = parse_header(data)
    if header is None:
        height, width = decode_image(data, name).shape[:2]
        return ImageProbe(width, height, width, height, 1, "rgb")
    width, height = header.upright
    return ImageProbe(width, height, header.width, header.height, header.orientation, header.mode)


def decode_image(data: bytes, name: str) -> NDArray[np.uint8]:
    """As read_image, for a file that is in memory already; `name` is for messages."""
    if not data:
        raise ImageError("corrupt-image", "the file is empty", name)
    header = parse_header(data)
    if header is not None and header.width * header.height > (limit := max_pixels()):
        raise ImageError(
            "image-too-large", f"{header.width}x{header.height} pixels; at most {limit:,} are read ({VARIABLE})", name
        )
    if header is not None and not header.complete:
        raise ImageError("truncated-image", f"the {header.format} file ends too early", name)
    if header is not None and header.format == "jpeg":
        return turn_upright(_decode_jpeg(data, header, name), header.orientation)
    if header is not None and header.format == "png" and not png_is_sound(data):
        raise ImageError("corrupt-image", "a checksum inside the PNG file is wrong", name)
    pixels = _decode_other(data, name)
    # The TIFF decoder of OpenCV turns by itself; the others are asked not to.
    turn = 1 if header is None or header.format == "tiff" else header.orientation
    return turn_upright(_to_rgb(pixels, name), turn)


def turn_upright(pixels: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Apply an EXIF orientation (1 to 8) to [H, W] or [H, W, C]; 5 to 8 swap the sides."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise ImageError("missing-image", "the file does not exist", str(path)) from None
    except OSError as error:
        raise ImageError("corrupt-image", f"cannot be read: {error.strerror or error}", str(path)) from error


def _decode_jpeg(data: bytes, header: Header, name: str) -> NDArray[np.uint8]:
    if header.mode == "cmyk":
        # Only OpenCV knows Adobe's inverted CMYK; it is lenient, so the strict decoder has a look first.
        _strict_jpeg(data, "CMYK", name)
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
        if pixels is None:
            raise ImageError("corrupt-image", "the CMYK JPEG cannot be decoded", name)
        return _to_rgb(np.asarray(pixels), name)
    return _strict_jpeg(data, "RGB", name)


def _strict_jpeg(data: bytes, colours: str, name: str) -> NDArray[np.uint8]:
    try:
        return np.asarray(simplejpeg.decode_jpeg(data, colours), dtype=np.uint8)
    except ValueError as error:
        reason = str(error)
    if _HARMLESS.search(reason):
        return np.asarray(simplejpeg.decode_jpeg(data, colours, strict=False), dtype=np.uint8)
    code = "truncated-image" if "Premature end" in reason else "corrupt-image"
    raise ImageError(code, f"broken JPEG: {reason}", name)


def _decode_other(data: bytes, name: str) -> NDArray[Any]:
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise ImageError("corrupt-image", f"cannot be decoded: {error.err}", name) from error
    if pixels is None:
        raise ImageError("corrupt-image", f"not a picture that can be read (it starts with {data[:8]!r})", name)
    return np.asarray(pixels)


def _to_rgb(pixels: NDArray[Any], name: str) -> NDArray[np.uint8]:
    """Whatever OpenCV decoded (gray, BGR, BGRA; 8 or 16 bits) to uint8 RGB [H, W, 3]."""
    if pixels.dtype == np.uint16:
        pixels = ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if pixels.dtype != np.uint8:
        raise ImageError("unsupported-image", f"pixels of type {pixels.dtype}; 8 or 16 bits are read", name)
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    if pixels.shape[2] in (1, 2):
        return np.repeat(pixels[:, :, :1], 3, axis=2)
    return np.ascontiguousarray(pixels[:, :, 2::-1])

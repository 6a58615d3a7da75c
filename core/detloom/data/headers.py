"""What the first bytes of an image file say: size, mode and EXIF orientation, without decoding a pixel."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_MODES = {0: "gray", 2: "rgb", 3: "palette", 4: "gray-alpha", 6: "rgba"}
_JPEG_MODES = {1: "gray", 3: "rgb", 4: "cmyk"}
# Start-of-frame markers; C4, C8 and CC are tables, not frames.
_SOF = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


@dataclass(frozen=True, slots=True)
class Header:
    """width, height: pixels as stored (before the orientation is applied). orientation: EXIF 1 to 8.

    mode: `rgb`, `gray`, `palette`, `rgba`, `gray-alpha`, `cmyk`, with `16` appended for 16 bits a channel.
    complete: false when the file visibly ends too early. several: further pictures (animations, pages).
    """

    format: str
    width: int
    height: int
    orientation: int = 1
    mode: str = "rgb"
    complete: bool = True
    several: bool = False

    @property
    def upright(self) -> tuple[int, int]:
        """(width, height) after the orientation is applied."""
        return (self.height, self.width) if self.orientation >= 5 else (self.width, self.height)


def parse_header(data: bytes) -> Header | None:
    """None when the format is not one of JPEG, PNG, GIF, BMP, WebP, TIFF or its header is broken."""
    try:
        for magic, parse in _PARSERS:
            if data.startswith(magic):
                header = parse(data)
                return header if header is not None and header.width > 0 and header.height > 0 else None
    except (struct.error, IndexError, ValueError):
        return None
    return None


def _jpeg(data: bytes) -> Header | None:
    position, orientation = 2, 1
    while position + 4 <= len(data):
        if data[position] != 0xFF:
            return None
        marker = data[position + 1]
        if marker == 0xFF:  # fill byte
            position += 1
            continue
        if marker == 0x01 or 0xD0 <= marker <= 0xD8:  # markers without a length
            position += 2
            continue
        length = int.from_bytes(data[position + 2 : position + 4], "big")
        if marker in _SOF:
            height, width, components = struct.unpack_from(">HHB", data, position + 5)
            return Header("jpeg", width, height, orientation, _JPEG_MODES.get(components, "rgb"))
        if marker == 0xE1 and data[position + 4 : position + 10] == b"Exif\x00\x00":
            orientation = _tiff_orientation(data[position + 10 : position + 2 + length])
        position += 2 + length
    return None


def _png(data: bytes) -> Header:
    width, height, depth, colour = struct.unpack_from(">IIBB", data, 16)
    mode = _PNG_MODES.get(colour, "rgb") + ("16" if depth == 16 else "")
    orientation, position, complete, several = 1, 8, False, False
    while position + 12 <= len(data):
        length = int.from_bytes(data[position : position + 4], "big")
        kind = data[position + 4 : position + 8]
        if kind == b"eXIf":
            orientation = _tiff_orientation(data[position + 8 : position + 8 + length])
        several = several or kind == b"acTL"
        position += 12 + length
        if kind == b"IEND":
            complete = position <= len(data)
            break
    return Header("png", width, height, orientation, mode, complete, several)


def png_is_sound(data: bytes) -> bool:
    """Whether every chunk of a PNG has the checksum that it states."""
    position = 8
    while position + 12 <= len(data):
        length = int.from_bytes(data[position : position + 4], "big")
        end = position + 8 + length
        if zlib.crc32(data[position + 4 : end]) != int.from_bytes(data[end : end + 4], "big"):
            return False
        if data[position + 4 : position + 8] == b"IEND":
            return True
        position = end + 4
    return False


def _gif(data: bytes) -> Header:
    width, height = struct.unpack_from("<HH", data, 6)
    end = _gif_frame_end(data, 13 + _gif_colours(data[10]))
    complete = 0 < end <= len(data)
    return Header("gif", width, height, mode="palette", complete=complete, several=_gif_frame_end(data, end) > 0)


def _gif_frame_end(data: bytes, position: int) -> int:
    """Where the next frame ends, beyond the data when that is cut off; 0 when there is none."""
    while 0 < position < len(data):
        kind = data[position]
        if kind == 0x2C:  # a frame: its place, perhaps colours, the code size, then blocks
            return _gif_blocks(data, position + 11 + _gif_colours(data[position + 9]))
        if kind != 0x21:  # neither a frame nor an extension
            return 0
        position = _gif_blocks(data, position + 2)
    return 0


def _gif_colours(flags: int) -> int:
    """Bytes of a colour table."""
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _gif_blocks(data: bytes, position: int) -> int:
    """The position after a chain of blocks, which ends with an empty one; beyond the data when it does not end."""
    while position < len(data) and data[position]:
        position += 1 + data[position]
    return position + 1


def _bmp(data: bytes) -> Header:
    size, start = struct.unpack_from("<I4xI", data, 2)
    width, height = struct.unpack_from("<ii", data, 18)
    return Header("bmp", width, abs(height), complete=len(data) >= size and len(data) > start)


def _webp(data: bytes) -> Header | None:
    if data[8:12] != b"WEBP":
        return None
    complete = len(data) >= int.from_bytes(data[4:8], "little") + 8
    kind = data[12:16]
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return Header("webp", width & 0x3FFF, height & 0x3FFF, complete=complete)
    if kind == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return Header("webp", (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1, complete=complete)
    width = int.from_bytes(data[24:27], "little") + 1
    height = int.from_bytes(data[27:30], "little") + 1
    several = bool(data[20] & 0x02)  # the flag of an animation
    return Header("webp", width, height, _webp_orientation(data), complete=complete, several=several)


def _webp_orientation(data: bytes) -> int:
    position = 12
    while position + 8 <= len(data):
        length = int.from_bytes(data[position + 4 : position + 8], "little")
        if data[position : position + 4] == b"EXIF":
            return _tiff_orientation(data[position + 8 : position + 8 + length].removeprefix(b"Exif\x00\x00"))
        position += 8 + length + length % 2
    return 1


def _tiff(data: bytes) -> Header:
    tags = _tiff_tags(data)
    # The place of the next directory stands behind the first one.
    order = "<" if data[:2] == b"II" else ">"
    (start,) = struct.unpack_from(f"{order}I", data, 4)
    (count,) = struct.unpack_from(f"{order}H", data, start)
    following = data[start + 2 + 12 * count : start + 6 + 12 * count]
    bits, samples = tags.get(258, 1), tags.get(277, 1)
    mode = {1: "gray", 2: "gray-alpha", 4: "rgba"}.get(samples, "rgb")
    # Tag 258 holds an offset when there are several samples; the decoder finds out then.
    mode += "16" if samples == 1 and bits == 16 else ""
    return Header("tiff", tags.get(256, 0), tags.get(257, 0), _valid(tags.get(274, 1)), mode, several=any(following))


def _tiff_orientation(block: bytes) -> int:
    """The orientation in an EXIF block; 1 when there is none or it makes no sense."""
    try:
        return _valid(_tiff_tags(block).get(274, 1))
    except (struct.error, ValueError):
        return 1


def _valid(orientation: int) -> int:
    return orientation if 1 <= orientation <= 8 else 1


def _tiff_tags(block: bytes) -> dict[int, int]:
    """First directory of a TIFF block: tag to value, for values of 16 or 32 bits."""
    order = {b"II": "<", b"MM": ">"}.get(block[:2])
    if order is None:
        raise ValueError("not a TIFF block")
    (start,) = struct.unpack_from(f"{order}I", block, 4)
    (count,) = struct.unpack_from(f"{order}H", block, start)
    tags: dict[int, int] = {}
    for index in range(count):
        entry = start + 2 + 12 * index
        tag, kind = struct.unpack_from(f"{order}HH", block, entry)
        if kind in (3, 4):
            (tags[tag],) = struct.unpack_from(order + ("H" if kind == 3 else "I"), block, entry + 8)
    return tags


_PARSERS = (
    (b"\xff\xd8", _jpeg),
    (_PNG, _png),
    (b"GIF8", _gif),
    (b"BM", _bmp),
    (b"RIFF", _webp),
    (b"II*\x00", _tiff),
    (b"MM\x00*", _tiff),
)

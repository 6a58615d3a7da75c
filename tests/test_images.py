"""The one reader of pictures, against Pillow."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from data_tools import picture
from detloom.data.images import ImageError, decode_image, probe_bytes, probe_image, read_image, turn_upright

RGB = picture(1, 40, 30)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)
    return buffer.getvalue()


def turned(kind: str, orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x112] = orientation
    image = Image.fromarray(RGB)
    if kind == "TIFF":
        return encoded(image, kind, tiffinfo={274: orientation})
    return encoded(image, kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {}))


def reference(data: bytes) -> np.ndarray:
    return np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))


def difference(data: bytes, truth: np.ndarray) -> int:
    pixels = decode_image(data, "x")
    assert pixels.shape == truth.shape
    assert pixels.dtype == np.uint8 and pixels.flags.c_contiguous
    return int(np.abs(pixels.astype(int) - truth).max())


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_every_exif_orientation_is_applied(kind: str, orientation: int) -> None:
    data = turned(kind, orientation)
    truth = reference(data)
    assert difference(data, truth) <= 1
    probe = probe_bytes(data, "x")
    assert (probe.height, probe.width) == truth.shape[:2]
    assert (probe.raw_height, probe.raw_width) == RGB.shape[:2]
    assert probe.orientation == orientation


# What Pillow can write.
WRITABLE = {
    "PNG": ["L", "LA", "P", "RGBA", "1", "RGB"],
    "JPEG": ["L", "1", "CMYK", "RGB"],
    "TIFF": ["L", "LA", "P", "RGBA", "1", "CMYK", "RGB"],
    "BMP": ["L", "P", "RGBA", "1", "RGB"],
    "GIF": ["L", "LA", "P", "RGBA", "1", "RGB"],
    "WEBP": ["L", "LA", "P", "RGBA", "RGB"],
}


@pytest.mark.parametrize(("kind", "mode"), [(kind, mode) for kind, modes in WRITABLE.items() for mode in modes])
def test_every_mode_becomes_rgb_as_pillow_converts_it(kind: str, mode: str) -> None:
    data = encoded(Image.fromarray(RGB).convert(mode), kind)
    # CMYK goes through two roundings.
    assert difference(data, reference(data)) <= (2 if mode == "CMYK" else 1)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bits_are_scaled_so_that_the_largest_value_becomes_255(kind: str) -> None:
    deep = np.arange(0, 65536, 64, dtype=np.uint16).reshape(32, 32)
    deep[-1, -1] = 65535
    pixels = decode_image(encoded(Image.fromarray(deep), kind), "x")
    expected = np.round(deep / 257).astype(np.uint8)
    assert np.array_equal(pixels, np.repeat(expected[:, :, None], 3, axis=2))


def test_alpha_is_dropped_and_the_colours_below_it_stay() -> None:
    rgba = np.dstack([RGB, np.zeros(RGB.shape[:2], np.uint8)])
    assert np.array_equal(decode_image(encoded(Image.fromarray(rgba), "PNG"), "x"), RGB)


def test_of_an_animation_the_first_frame_is_taken() -> None:
    frames = [Image.fromarray(picture(seed, 40, 30)).convert("P") for seed in (1, 2, 3)]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:], duration=100)
    assert difference(data, np.asarray(frames[0].convert("RGB"))) <= 1


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.95])
def test_a_cut_file_is_never_filled_up_in_silence(kind: str, share: float, capfd: pytest.CaptureFixture[str]) -> None:
    data = encoded(Image.fromarray(picture(1, 200, 150)), kind)
    with pytest.raises(ImageError) as caught:
        decode_image(data[: int(len(data) * share)], "cut.img")
    assert caught.value.code in ("truncated-image", "corrupt-image")
    assert "cut.img" in caught.value.message
    if share >= 0.3 and kind != "TIFF":
        assert caught.value.code == "truncated-image"
    assert capfd.readouterr() == ("", "")


def test_a_progressive_jpeg_that_ends_too_early_is_found() -> None:
    data = encoded(Image.fromarray(picture(1, 200, 150)), "JPEG", progressive=True)
    assert difference(data, reference(data)) <= 1
    with pytest.raises(ImageError, match=r"ends too early|Premature"):
        decode_image(data[: len(data) // 2], "x")


def test_rotten_bits_in_a_png_are_found_by_its_checksums() -> None:
    data = bytearray(encoded(Image.fromarray(RGB), "PNG"))
    data[len(data) // 2] ^= 4
    with pytest.raises(ImageError) as caught:
        decode_image(bytes(data), "x")
    assert caught.value.code == "corrupt-image"


@pytest.mark.parametrize(
    "data", [b"", b"hello", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"BM", b"RIFF....WEBP", b"II*\0"]
)
def test_what_is_no_picture_is_an_error_and_no_traceback(data: bytes) -> None:
    with pytest.raises(ImageError) as caught:
        decode_image(data, "x.jpg")
    assert caught.value.code in ("corrupt-image", "truncated-image")
    assert caught.value.exit_code == 3


def test_trailing_bytes_after_a_sound_jpeg_do_no_harm() -> None:
    data = encoded(Image.fromarray(RGB), "JPEG")
    assert np.array_equal(decode_image(data + b"\0" * 100, "x"), decode_image(data, "x"))


def test_a_bomb_is_refused_before_it_is_decoded() -> None:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    with pytest.raises(ImageError) as caught:
        decode_image(bomb, "bomb.png")
    assert caught.value.code == "image-too-large"


def test_a_path_is_read_and_probed_alike(tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    Image.fromarray(RGB).save(path)
    assert np.array_equal(read_image(path), RGB)
    probe = probe_image(path)
    assert (probe.width, probe.height, probe.mode) == (40, 30, "rgb")
    with pytest.raises(ImageError) as caught:
        read_image(tmp_path / "gone.png")
    assert caught.value.code == "missing-image"


def test_turning_upright_equals_pillow_for_gray_and_colour() -> None:
    ways = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }
    for array in (RGB, RGB[:, :, 0].copy()):
        for orientation, way in ways.items():
            assert np.array_equal(turn_upright(array, orientation), np.asarray(Image.fromarray(array).transpose(way)))

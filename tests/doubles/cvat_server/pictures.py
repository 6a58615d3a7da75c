"""The bytes of a frame: smooth coloured noise, the same at each call."""

from __future__ import annotations

import functools
import io
import random

from PIL import Image

from .world import Frame


@functools.lru_cache(maxsize=4096)
def picture(frame: Frame, kind: str = "") -> bytes:
    """kind: PNG or JPEG; by the name when it is empty."""
    kind = kind or ("PNG" if frame.name.lower().endswith(".png") else "JPEG")
    coarse = Image.frombytes("RGB", (8, 6), random.Random(frame.seed).randbytes(8 * 6 * 3))
    buffer = io.BytesIO()
    coarse.resize((frame.width, frame.height), Image.Resampling.BICUBIC).save(buffer, kind)
    return buffer.getvalue()

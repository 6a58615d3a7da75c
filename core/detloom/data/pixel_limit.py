"""The largest picture that is read. Standard library only."""

from __future__ import annotations

import os

from detloom.errors import UsageError

VARIABLE = "DETLOOM_MAX_PIXELS"
USUAL = 200_000_000
"""A few kilobytes can hold a picture of a terabyte. No camera takes more; scans and satellites do."""


def max_pixels() -> int:
    """Larger pictures, and masks of such, are refused before they are decoded. Raises UsageError for a variable that
    is no number."""
    text = os.environ.get(VARIABLE, "").strip()
    if not text:
        return USUAL
    try:
        limit = int(float(text)) if "e" in text.lower() else int(text.replace("_", ""))
    except (ValueError, OverflowError):
        limit = 0
    if limit < 1:
        raise UsageError(f"{VARIABLE} is {text!r}", hint=f"it takes a number of pixels, such as {2 * USUAL} or 4e8")
    return limit

"""Whether a file is what the server's etag says."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from pathlib import Path

_MIB = 1 << 20
_USUAL_PARTS = tuple(n * _MIB for n in (5, 8, 10, 15, 16, 25, 32, 50, 64, 100, 128, 256, 500, 512, 1024))
"""Sizes of parts that upload tools use."""
_ENCRYPTED = ("aws:kms", "aws:kms:dsse")


def md5_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def parts_etag(path: Path, sizes: Sequence[int]) -> str:
    """The etag of an upload in parts of these sizes: the md5 of their md5s, and their number."""
    whole = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        for size in sizes:
            piece, left = hashlib.md5(usedforsecurity=False), size
            while left and (chunk := file.read(min(left, _MIB))):
                piece.update(chunk)
                left -= len(chunk)
            whole.update(piece.digest())
    return f"{whole.hexdigest()}-{len(sizes)}"


def cut(total: int, part: int) -> list[int]:
    """Sizes of equal parts; the last takes the rest."""
    full, rest = divmod(total, part)
    return [part] * full + ([rest] if rest else [])


def agrees(path: Path, etag: str, part_size: Callable[[int], int]) -> bool | None:
    """True: the content is what the etag says. False: it is not. None: this etag says nothing of the content that can
    be recomputed (another algorithm, parts of unknown sizes). part_size(n): bytes of the n-th part from 1, 0 unknown.
    """
    parts = re.fullmatch(r"([0-9a-f]{32})-(\d+)", etag)
    if parts is None:
        return md5_of(path) == etag if re.fullmatch(r"[0-9a-f]{32}", etag) else None
    total, count = path.stat().st_size, int(parts[2])
    if count == 1:
        return parts_etag(path, [total]) == etag
    first = part_size(1)
    told = 0 < first < total
    for size in [first] if told else _USUAL_PARTS:
        if len(cut(total, size)) == count and parts_etag(path, cut(total, size)) == etag:
            return True
    if not told or count > 1000:
        return None
    sizes = [first, *(part_size(number) for number in range(2, count + 1))]
    return parts_etag(path, sizes) == etag if all(sizes) and sum(sizes) == total else None


def hides_content(headers: dict[str, str]) -> bool:
    """Server-side encryption whose etags are no md5."""
    return (
        headers.get("x-amz-server-side-encryption", "") in _ENCRYPTED
        or "x-amz-server-side-encryption-customer-algorithm" in headers
    )

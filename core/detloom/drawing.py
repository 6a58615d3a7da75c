"""Boxes, masks and small charts drawn on RGB arrays."""
# ruff: noqa: TID253

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from detloom.files import atomic_path
from detloom.geometry import Detections

Image = NDArray[np.uint8]
Colour = tuple[int, int, int]

FONT = cv2.FONT_HERSHEY_SIMPLEX
MASK_OPACITY = 0.45
MOST_TEXT = 0.1
"""Share of a picture with masks that texts may cover before the smallest objects lose theirs."""
GOLDEN_ANGLE = 0.61803398875
# Hand-picked first colours, well apart and visible on dark and bright pictures; more classes go round the hues.
_FIRST: tuple[Colour, ...] = (
    (230, 57, 70), (29, 120, 216), (42, 157, 63), (244, 140, 6), (131, 56, 200),
    (0, 168, 168), (214, 40, 160), (140, 94, 40), (120, 160, 0), (80, 80, 200),
)  # fmt: skip


def class_colour(index: int) -> Colour:
    """RGB of a class, the same in every picture, run and report."""
    if index < len(_FIRST):
        return _FIRST[index]
    hue = (index * GOLDEN_ANGLE) % 1.0
    saturation = (0.9, 0.65, 0.8)[index % 3]
    value = (0.85, 0.95, 0.65)[(index // 3) % 3]
    pixel = np.array([[[hue * 179, saturation * 255, value * 255]]], dtype=np.uint8)
    red, green, blue = cv2.cvtColor(pixel, cv2.COLOR_HSV2RGB)[0, 0].tolist()
    return red, green, blue


def plain_text(text: str) -> str:
    """What the drawing font can show: accents are taken off, other letters become `?`."""
    replaced = text.replace("ß", "ss").replace("æ", "ae").replace("ø", "o").replace("ł", "l").replace("–", "-")
    split = unicodedata.normalize("NFKD", replaced)
    letters = (c for c in split if not unicodedata.combining(c))
    return "".join(c if " " <= c <= "~" else "?" for c in letters)


def draw_detections(image: Image, found: Detections, names: Sequence[str]) -> Image:
    """A copy of the picture with boxes, class names and scores; the best detection lies on top.

    image: uint8 RGB [H, W, 3]; boxes in its pixels; names: by class index.
    """
    labels = [class_text(names, label) for label in found.labels.tolist()]
    texts = [f"{name} {score:.2f}" for name, score in zip(labels, found.scores.tolist(), strict=True)]
    order = np.argsort(found.scores, kind="stable")
    return draw_objects(
        image,
        found.boxes[order],
        found.labels[order],
        [texts[row] for row in order],
        None if found.masks is None else [found.masks[row] for row in order],
    )


def draw_objects(
    image: Image,
    boxes: NDArray[np.floating[Any]],
    labels: NDArray[np.integer[Any]],
    texts: Sequence[str],
    masks: Sequence[Mapping[str, Any] | None] | None = None,
) -> Image:
    """A copy of the picture with objects; later ones lie on top.

    image: uint8 RGB [H, W, 3]; boxes: [N, 4] xyxy pixels; labels: [N] class indices, which give the colour; texts: one
    a box, empty for none; masks: COCO RLE of the picture's size. With masks, an object that is smaller than its text
    goes without one where texts would hide much of the picture.
    """
    canvas = np.ascontiguousarray(image).copy()
    for rle, label in zip(masks or (), labels.tolist(), strict=False):
        if rle is not None:
            _tint(canvas, rle, class_colour(label))
    thickness = line_thickness(canvas)
    corners = [tuple(round(float(v)) for v in box) for box in boxes]
    for (x1, y1, x2, y2), label in zip(corners, labels.tolist(), strict=True):
        cv2.rectangle(canvas, (x1, y1), (x2, y2), class_colour(label), thickness, cv2.LINE_AA)
    shown = texts if masks is None else _readable(canvas, corners, texts)
    # Names after all boxes: no line runs through a name.
    for (x1, y1, _, _), label, text in zip(corners, labels.tolist(), shown, strict=True):
        if text:
            draw_label(canvas, plain_text(text), (x1, y1), class_colour(label))
    return canvas


def line_thickness(image: Image) -> int:
    shortest: int = min(image.shape[:2])
    return max(1, round(shortest / 320))


def class_text(names: Sequence[str], label: int) -> str:
    """The name as the font can show it; `class 3` for a name of which no letter can be shown."""
    text = plain_text(names[label]) if 0 <= label < len(names) else ""
    return text if text.strip("? ") else f"class {label}"


def _tint(canvas: Image, rle: Mapping[str, Any], colour: Colour) -> None:
    from hotcoco.mask import decode

    inside = decode(dict(rle)).astype(bool)
    if inside.shape != canvas.shape[:2]:
        raise ValueError(f"a mask of {inside.shape} does not fit a picture of {canvas.shape[:2]}")
    mixed = canvas[inside] * (1 - MASK_OPACITY) + np.array(colour) * MASK_OPACITY
    canvas[inside] = mixed.astype(np.uint8)
    # Touching objects of one class would be one patch without a line between them.
    outlines, _ = cv2.findContours(inside.view(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(canvas, outlines, -1, colour, 1)


def _readable(canvas: Image, corners: Sequence[Sequence[int]], texts: Sequence[str]) -> list[str]:
    """Hundreds of small objects with a text each would show nothing but texts."""
    tabs = [_tab(canvas, plain_text(text))[0] if text else (0, 0) for text in texts]
    areas = [width * height for width, height in tabs]
    if sum(areas) <= MOST_TEXT * canvas.shape[0] * canvas.shape[1]:
        return list(texts)
    sizes = [(x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in corners]
    return [text if size > area else "" for text, size, area in zip(texts, sizes, areas, strict=True)]


def _letters(image: Image) -> tuple[float, int]:
    """Scale of the font and thickness of its lines."""
    return float(np.clip(min(image.shape[:2]) / 900, 0.36, 2.0)), max(1, line_thickness(image) // 2)


def _tab(image: Image, text: str) -> tuple[tuple[int, int], tuple[int, int]]:
    """(width, height) of the tab behind a text, then its margin and the height of the letters; pixels."""
    (width, height), base = cv2.getTextSize(text, FONT, *_letters(image))
    pad = max(2, round(height * 0.3))
    return (width + 2 * pad, height + base + pad), (pad, height)


def draw_label(canvas: Image, text: str, corner: tuple[int, int], colour: Colour) -> None:
    """Text on a filled tab above the corner; below the line where the picture ends. Drawn in place.

    White letters, black ones on a bright tab: a contrast of at least 3:1 on any colour (WCAG 2 for large text).
    """
    scale, weight = _letters(canvas)
    (tab_width, tab_height), (pad, height) = _tab(canvas, text)
    x = int(np.clip(corner[0], 0, max(canvas.shape[1] - tab_width, 0)))
    y = corner[1] - tab_height if corner[1] >= tab_height else max(corner[1], 0)
    y = int(np.clip(y, 0, max(canvas.shape[0] - tab_height, 0)))
    cv2.rectangle(canvas, (x, y), (x + tab_width, y + tab_height), colour, cv2.FILLED)
    letters = (0, 0, 0) if _luminance(colour) > 0.26 else (255, 255, 255)
    cv2.putText(canvas, text, (x + pad, y + pad // 2 + height), FONT, scale, letters, weight, cv2.LINE_AA)


def _luminance(colour: Colour) -> float:
    """Relative luminance in 0..1 (WCAG 2)."""
    channels = np.array(colour) / 255
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return float(linear @ np.array([0.2126, 0.7152, 0.0722]))


def fit(image: Image, longest_side: int) -> tuple[Image, float]:
    """The picture scaled so that its longest side has at most so many pixels, and the factor; never enlarged."""
    factor = min(1.0, longest_side / max(image.shape[:2]))
    if factor == 1.0:
        return image, 1.0
    size = (max(1, round(image.shape[1] * factor)), max(1, round(image.shape[0] * factor)))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), dtype=np.uint8), factor


def side_by_side(left: Image, right: Image, titles: tuple[str, str] = ("truth", "prediction")) -> Image:
    """Two pictures of the same size under their titles, a narrow gap between them."""
    if left.shape != right.shape:
        raise ValueError(f"pictures of {left.shape} and {right.shape} do not stand side by side")
    bar = max(18, round(min(left.shape[:2]) / 18))
    panels = []
    for picture, title in zip((left, right), titles, strict=True):
        head = np.full((bar, picture.shape[1], 3), 245, dtype=np.uint8)
        scale = bar / 34
        cv2.putText(head, plain_text(title), (bar // 3, round(bar * 0.72)), FONT, scale, (30, 30, 30), 1, cv2.LINE_AA)
        panels.append(np.vstack([head, picture]))
    gap = np.full((panels[0].shape[0], max(4, bar // 4), 3), 245, dtype=np.uint8)
    return np.hstack([panels[0], gap, panels[1]])


def encode_jpeg(image: Image, quality: int = 85) -> bytes:
    """image: uint8 RGB [H, W, 3]."""
    import simplejpeg

    data: bytes = simplejpeg.encode_jpeg(np.ascontiguousarray(image), quality=quality, colorsubsampling="420")
    return data


def save_jpeg(image: Image, path: Path, quality: int = 90) -> None:
    """Write whole or not at all. Raises DetloomError when the place cannot be written."""
    data = encode_jpeg(image, quality)
    with atomic_path(path) as part:
        part.write_bytes(data)


def line_chart(series: Mapping[str, Sequence[tuple[float, float]]], title: str = "") -> Image:
    """A small chart, 480 x 640 pixels, for loggers that take pictures alone. series: name to (x, y) points."""
    canvas = np.full((480, 640, 3), 255, dtype=np.uint8)
    left, top, right, bottom = 60, 40, 620, 440
    points = np.array([p for curve in series.values() for p in curve if np.isfinite(p).all()]).reshape(-1, 2)
    cv2.putText(canvas, plain_text(title), (left, 26), FONT, 0.55, (30, 30, 30), 1, cv2.LINE_AA)
    cv2.rectangle(canvas, (left, top), (right, bottom), (200, 200, 200), 1)
    if not len(points):
        return canvas
    low, high = points.min(axis=0), points.max(axis=0)
    span = np.where(high > low, high - low, 1.0)
    for share in (0.0, 0.5, 1.0):
        x, y = round(left + share * (right - left)), round(bottom - share * (bottom - top))
        across, up = low + share * span
        cv2.putText(canvas, f"{across:.3g}", (x - 12, bottom + 20), FONT, 0.4, (90, 90, 90), 1, cv2.LINE_AA)
        cv2.putText(canvas, f"{up:.3g}", (8, y + 4), FONT, 0.4, (90, 90, 90), 1, cv2.LINE_AA)
    for index, (name, curve) in enumerate(series.items()):
        kept = np.array([p for p in curve if np.isfinite(p).all()]).reshape(-1, 2)
        shares = (kept - low) / span
        pixels = np.stack([left + shares[:, 0] * (right - left), bottom - shares[:, 1] * (bottom - top)], axis=1)
        cv2.polylines(canvas, [np.round(pixels).astype(np.int32)], False, class_colour(index), 2, cv2.LINE_AA)
        if index < 12:
            at = (right - 160, top + 18 + 16 * index)
            cv2.putText(canvas, plain_text(name)[:20], at, FONT, 0.42, class_colour(index), 1, cv2.LINE_AA)
    return canvas

"""`detloom predict RUN|FILE IMAGES...`."""

from __future__ import annotations

import argparse
import glob
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detloom.cli import console
from detloom.cli.evaluate import add_inference_arguments
from detloom.errors import DataError, UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from detloom.data.dataset import ClassMap
    from detloom.data.images import ImageError
    from detloom.geometry import Detections
    from detloom.prediction import Predictor

SCORE = 0.3
SUFFIXES = {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".ppm", ".pgm", ".jp2"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="RUN|FILE", help="a run's folder, a checkpoint (.pt) or an exported file")
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="files, folders or patterns such as 'in/*.jpg'")
    parser.add_argument("--recursive", action="store_true", help="folders with all folders below them")
    parser.add_argument(
        "--save",
        nargs="?",
        const="predictions",
        metavar="DIR",
        help="draw boxes and masks into pictures in DIR (predictions)",
    )
    add_inference_arguments(parser, score=f"{SCORE}")
    parser.add_argument("--json", action="store_true", help="for programs: every detection")
    parser.add_argument("--coco", metavar="FILE", help="write a COCO json with the detections as annotations")
    parser.epilog = "A picture that cannot be read is reported at the end, with exit code 3; the others are done."


@dataclass(frozen=True, slots=True)
class Found:
    """One picture and what is in it. size: (height, width)."""

    path: Path
    size: tuple[int, int]
    detections: Detections


def run(args: argparse.Namespace) -> int:
    from detloom.host import discover
    from detloom.prediction import open_predictor

    paths = find_images(args.images, recursive=args.recursive)
    if args.save:
        _refuse_file(Path(args.save))
    predictor = open_predictor(Path(args.model), discover(), args.runtime, args.device)
    predictor = predictor.with_rule(SCORE if args.score is None else args.score, args.nms, args.max_detections)
    found: list[Found] = []
    faults: list[ImageError] = []
    names = _picture_names(paths)
    for one, image in _predict(predictor, paths, args.batch_size, faults):
        found.append(one)
        if args.save:
            _draw(one, image, predictor.class_map, Path(args.save) / names[one.path])
    if args.coco:
        from detloom.files import write_json

        write_json(Path(args.coco), coco_document(found, predictor.class_map))
    if args.json:
        console.write_json([_row(one, predictor.class_map) for one in found])
    else:
        _summary(found, predictor, args)
    return _report_faults(faults, len(paths))


def _report_faults(faults: Sequence[ImageError], total: int) -> int:
    for fault in faults:
        console.error(fault.message)
    if faults:
        console.note(f"  {len(faults)} of {total} pictures could not be read; the others are done")
    return DataError.exit_code if faults else 0


def find_images(given: Sequence[str], *, recursive: bool) -> list[Path]:
    """Files, folders and patterns to files, each once, folders in alphabetical order. Raises DataError."""
    found: dict[Path, None] = {}
    for text in given:
        path = Path(text).expanduser()
        if path.is_file():
            found[path] = None
        elif path.is_dir():
            inside = sorted(path.rglob("*") if recursive else path.iterdir())
            pictures = [file for file in inside if file.suffix.lower() in SUFFIXES and file.is_file()]
            if not pictures:
                below = "" if recursive else "; --recursive looks into folders below it"
                raise DataError(f"{path} holds no pictures", hint=f"looked for {', '.join(sorted(SUFFIXES))}{below}")
            found.update(dict.fromkeys(pictures))
        else:
            matches = sorted(Path(match) for match in glob.glob(str(path), recursive=True) if Path(match).is_file())  # noqa: PTH207 - patterns may be absolute
            if not matches:
                raise DataError(f"there is no picture at {text}", hint="give files, folders or patterns")
            found.update(dict.fromkeys(matches))
    return list(found)


def _predict(
    predictor: Predictor, paths: Sequence[Path], batch_size: int, faults: list[ImageError]
) -> Iterator[tuple[Found, NDArray[np.uint8]]]:
    """Picture by picture; those that cannot be read are added to `faults`."""
    from detloom.data.images import ImageError
    from detloom.prediction import read_ahead
    from detloom.progress import Reading

    batch: list[tuple[Path, NDArray[np.uint8]]] = []
    with Reading("predicting") as reading:
        for number, (path, image) in enumerate(read_ahead(paths), start=1):
            if isinstance(image, ImageError):
                faults.append(image)
            else:
                batch.append((path, image))
            if batch and (len(batch) == batch_size or number == len(paths)):
                results = predictor.predict([pixels for _, pixels in batch])
                for (name, pixels), one in zip(batch, results, strict=True):
                    yield Found(name, (pixels.shape[0], pixels.shape[1]), one), pixels
                batch = []
            reading.update(number, len(paths))


def _refuse_file(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"--save {folder}: a file is in the way", hint="name a folder; IMAGES stand before --save")


def _picture_names(paths: Sequence[Path]) -> dict[Path, str]:
    """A file name for each drawn picture; two pictures of one name in different folders get different ones."""
    names: dict[Path, str] = {}
    taken: Counter[str] = Counter()
    for path in paths:
        taken[path.stem] += 1
        number = taken[path.stem]
        while number > 1 and taken[f"{path.stem}-{number}"]:
            number += 1
        stem = path.stem if number == 1 else f"{path.stem}-{number}"
        if number > 1:
            taken[stem] += 1
        names[path] = f"{stem}.jpg"
    return names


def _draw(one: Found, image: NDArray[np.uint8], class_map: ClassMap, path: Path) -> None:
    from detloom.drawing import draw_detections, save_jpeg

    save_jpeg(draw_detections(image, one.detections, class_map.names), path)


def _row(one: Found, class_map: ClassMap) -> dict[str, Any]:
    """Ids and names are those of the data that the model was trained on."""
    found = one.detections
    return {
        "image": str(one.path),
        "width": one.size[1],
        "height": one.size[0],
        "detections": [
            {
                "class_id": class_map.ids[label],
                "class_name": class_map.names[label],
                "score": round(score, 6),
                "box": [round(value, 3) for value in box],
                **({} if found.masks is None else {"mask": dict(found.masks[row])}),
            }
            for row, (box, score, label) in enumerate(
                zip(found.boxes.tolist(), found.scores.tolist(), found.labels.tolist(), strict=True)
            )
        ],
    }


def coco_document(found: Sequence[Found], class_map: ClassMap) -> dict[str, Any]:
    """A COCO json: images numbered from 1, the data's own class ids, a score beside each annotation; masks as RLE, with
    their own area."""
    annotations: list[dict[str, Any]] = []
    for number, one in enumerate(found, start=1):
        for row in _row(one, class_map)["detections"]:
            left, top, right, bottom = row["box"]
            width, height = right - left, bottom - top
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": row["class_id"],
                    "bbox": [left, top, width, height],
                    "area": width * height,
                    "iscrowd": 0,
                    "score": row["score"],
                    **_segmentation(row),
                }
            )
    images = [
        {"id": number, "file_name": one.path.name, "width": one.size[1], "height": one.size[0]}
        for number, one in enumerate(found, start=1)
    ]
    categories = [{"id": i, "name": name} for i, name in zip(class_map.ids, class_map.names, strict=True)]
    return {"images": images, "categories": categories, "annotations": annotations}


def _segmentation(row: dict[str, Any]) -> dict[str, Any]:
    from detloom.data.masks import rle_area

    return {"segmentation": row["mask"], "area": rle_area(row["mask"])} if "mask" in row else {}


def _summary(found: Sequence[Found], predictor: Predictor, args: argparse.Namespace) -> None:
    names = predictor.class_map.names
    for one in found:
        counts = Counter(names[label] for label in one.detections.labels.tolist())
        text = ", ".join(f"{count} {name}" for name, count in counts.most_common()) or "nothing"
        console.write(f"{one.path}: {text}")
    total = sum(len(one.detections) for one in found)
    counted = f"{_counted(total, 'detection')} in {_counted(len(found), 'picture')}"
    places = [f"pictures in {args.save}"] if args.save and found else []
    places += [f"COCO json in {args.coco}"] if args.coco else []
    where = f"; {', '.join(places)}" if places else ""
    console.note(f"{counted}, score at least {predictor.post_rule.score_threshold:g}{where}")


def _counted(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"

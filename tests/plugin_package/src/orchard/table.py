"""A format: `boxes.csv` with `file,x1,y1,x2,y2,label` on each line; the first folder of `file` is the split."""

import csv

import detloom

SPLITS = {"train": "train", "valid": "val", "test": "test"}


def settings():
    from typing import Annotated

    from pydantic import Field

    class TableSettings(detloom.Settings):
        """boxes.csv."""

        delimiter: Annotated[str, Field(min_length=1, max_length=1, description="between two fields")] = ","

    return TableSettings()


class Table:
    def __init__(self, settings):
        self.delimiter = settings.delimiter

    def sniff(self, tree):
        found = (tree.root / "boxes.csv").is_file()
        return detloom.Sniff(1.0 if found else 0.0, "boxes.csv" if found else "no boxes.csv")

    def read(self, tree):
        images, labels = {}, set()
        with (tree.root / "boxes.csv").open(newline="", encoding="utf-8") as file:
            for number, row in enumerate(csv.reader(file, delimiter=self.delimiter), start=1):
                where = f"boxes.csv:{number}"
                try:
                    name, *sides, label = row
                    x1, y1, x2, y2 = map(float, sides)
                except ValueError as error:
                    yield detloom.Finding("bad-record", "error", f"not a box: {error}", where)
                    continue
                labels.add(label)
                box = detloom.ObjectRecord([x1, y1, x2, y2], class_name=label, where=where)
                images.setdefault(name, []).append(box)
        for label in sorted(labels):
            yield detloom.ClassRecord(id=None, name=label)
        for name, boxes in images.items():
            path = (tree.root / name).resolve()
            inside = path.is_relative_to(tree.root.resolve()) and path.is_file()
            split = SPLITS.get(name.partition("/")[0], "all")
            yield detloom.ImageRecord(split, name, path if inside else None, tuple(boxes), where=boxes[0].where)


@detloom.hookimpl
def detloom_formats():
    yield detloom.FormatSpec(name="table", summary="boxes.csv", settings=settings, build=Table)

"""`detloom split DATA --out DIR`: one set of images into train, valid and test, on disk."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from detloom.cli import console
from detloom.cli.data_arguments import add_data_arguments, resolve_data
from detloom.cli.data_output import refuse_used, write_whole, writer_of
from detloom.errors import UsageError
from detloom.progress import Reading

if TYPE_CHECKING:
    from detloom.data.dataset import Dataset


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_data_arguments(parser)
    parser.add_argument("--images", metavar="PATH", help="folder of the images, when they are not beside the json")
    parser.add_argument("--out", required=True, metavar="DIR", help="new folder for the result")
    parser.add_argument("--val", default="0.2", metavar="SHARE", help="share of the images for validation (0.2)")
    parser.add_argument("--test", default="0", metavar="SHARE", help="share of the images for the test (0)")
    parser.add_argument("--seed", default="0", metavar="N", help="another seed gives another split (0)")
    parser.add_argument("--format", default="coco", metavar="NAME", help="format to write (coco)")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--link", action="store_true", help="images are hard links where possible (default)")
    how.add_argument("--copy", action="store_true", help="images are copied")


def run(args: argparse.Namespace) -> int:
    from detloom.data.load import load_dataset
    from detloom.host import discover

    out = Path(args.out).expanduser()
    refuse_used(out)
    host = discover()
    shares = {f"data.split.{name}": (getattr(args, name), f"--{name}") for name in ("val", "test", "seed")}
    config = resolve_data(_without_shares(args), host, shares)
    writer = writer_of(host, args.format, "--format")
    with Reading("reading the data") as reading:
        dataset = load_dataset(config, host, progress=reading.update)
    if not any(finding.code == "split-made" for finding in dataset.findings):
        raise UsageError(
            f"{dataset.name} has a validation split already", hint="name one json to split it: detloom split FILE.json"
        )
    write_whole(dataset, writer, out, args.copy)
    console.write(_summary(dataset))
    console.write(f"written to {out}; next:\n  detloom check {out}")
    return 0


def _without_shares(args: argparse.Namespace) -> argparse.Namespace:
    """--val and --test are shares here, not annotation files."""
    return argparse.Namespace(**{name: value for name, value in vars(args).items() if name not in ("val", "test")})


def _summary(dataset: Dataset) -> str:
    import numpy as np

    rows = []
    for split in dataset.splits.values():
        counts = np.bincount(split.labels, minlength=len(dataset.class_map)).tolist()
        rows.append((split.name, str(len(split)), *map(str, counts)))
    return console.table(("split", "images", *dataset.class_map.names), rows)

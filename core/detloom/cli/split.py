"""`detloom split DATA --out DIR`: one set of images into train, valid and test, on disk."""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from detloom.cli import console
from detloom.cli.data_arguments import add_data_arguments, resolve_data
from detloom.errors import DetloomError, UsageError
from detloom.progress import Reading

if TYPE_CHECKING:
    from detloom.data.dataset import Dataset
    from detloom.host import PluginHost
    from detloom.specs import WritableFormat


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
    _refuse_used(out)
    host = discover()
    shares = {f"data.split.{name}": (getattr(args, name), f"--{name}") for name in ("val", "test", "seed")}
    config = resolve_data(_without_shares(args), host, shares)
    writer = _writer(host, args.format)
    with Reading("reading the data") as reading:
        dataset = load_dataset(config, host, progress=reading.update)
    if not any(finding.code == "split-made" for finding in dataset.findings):
        raise UsageError(
            f"{dataset.name} has a validation split already", hint="name one json to split it: detloom split FILE.json"
        )
    _write(dataset, writer, out, args.copy)
    console.write(_summary(dataset))
    console.write(f"written to {out}; next:\n  detloom check {out}")
    return 0


def _without_shares(args: argparse.Namespace) -> argparse.Namespace:
    """--val and --test are shares here, not annotation files."""
    return argparse.Namespace(**{name: value for name, value in vars(args).items() if name not in ("val", "test")})


def _refuse_used(out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out} exists and is not an empty folder", hint="name a new folder with --out")


def _writer(host: PluginHost, name: str) -> WritableFormat:
    from detloom.specs import FormatSpec, WritableFormat

    spec = host.get(FormatSpec, name)
    built = spec.build(spec.settings())
    if not isinstance(built, WritableFormat):
        raise UsageError(f"the format {name} cannot be written", hint="choose another with --format")
    return built


def _write(dataset: Dataset, writer: WritableFormat, out: Path, copy_images: bool) -> None:
    """All or nothing: written beside the place and moved there when complete."""
    part: Path | None = None
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}.", suffix=".part"))
        part.chmod(0o755)
        writer.write(dataset, part, copy_images)
        if out.exists():
            out.rmdir()
        part.rename(out)
    except OSError as error:
        raise DetloomError(
            f"cannot write {out}: {error.strerror or error}", hint="nothing half-written was left behind"
        ) from error
    finally:
        if part is not None:
            shutil.rmtree(part, ignore_errors=True)


def _summary(dataset: Dataset) -> str:
    import numpy as np

    rows = []
    for split in dataset.splits.values():
        counts = np.bincount(split.labels, minlength=len(dataset.class_map)).tolist()
        rows.append((split.name, str(len(split)), *map(str, counts)))
    return console.table(("split", "images", *dataset.class_map.names), rows)

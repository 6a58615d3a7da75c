"""`detloom split DATA... --out DIR`: one set of images into train, valid and test, on disk."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detloom.cli import console
from detloom.cli.data_arguments import add_data_arguments, resolve_data
from detloom.cli.data_output import refuse_nested, refuse_used, write_whole, writer_of
from detloom.cli.data_sources import sources_json, sources_text
from detloom.errors import UsageError
from detloom.progress import Reading

if TYPE_CHECKING:
    from detloom.config import ResolvedConfig
    from detloom.data.dataset import Dataset
    from detloom.specs import WritableFormat


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_data_arguments(parser, several=True)
    parser.add_argument("--images", metavar="PATH", help="folder of the images, when they are not beside the json")
    parser.add_argument("--out", required=True, metavar="DIR", help="new folder for the result")
    parser.add_argument("--val", default="0.2", metavar="SHARE", help="share of the images for validation (0.2)")
    parser.add_argument("--test", default="0", metavar="SHARE", help="share of the images for the test (0)")
    parser.add_argument("--seed", default="0", metavar="N", help="another seed gives another split (0)")
    parser.add_argument("--stratify", action="store_true", help="each split gets its share of every class")
    parser.add_argument(
        "--group", metavar="RULE", help="images of one group stay together: a regular expression, or field:NAME"
    )
    parser.add_argument(
        "--keep", metavar="PATH", help="images keep the split that they have in this earlier result, or in these lists"
    )
    parser.add_argument("--anew", action="store_true", help="split all images, also of data that have splits")
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
    config = resolve_data(_without_shares(args), host, _rules(args))
    refuse_nested(out, config)
    writer = writer_of(host, args.format, "--format")
    with Reading("reading the data") as reading:
        dataset = load_dataset(config, host, progress=reading.update)
    if len(dataset.sources) == 1 and not any(finding.code == "split-made" for finding in dataset.findings):
        raise UsageError(
            f"{dataset.name} has a validation split already",
            hint="split everything again with --anew, or name one json to split it: detloom split FILE.json",
        )
    write_whole(dataset, _Recording(writer, config), out, args.copy)
    console.write("\n\n".join(part for part in (_summary(dataset), sources_text(dataset)) if part))
    console.write(f"written to {out}; next:\n  detloom check {out}")
    return 0


def _rules(args: argparse.Namespace) -> dict[str, tuple[str, str]]:
    """Configuration key to (text, flag)."""
    rules = {f"data.split.{name}": (getattr(args, name), f"--{name}") for name in ("val", "test", "seed")}
    for flag, key, text in (
        ("stratify", "stratify", "true"),
        ("group", "group", args.group),
        ("keep", "files", args.keep),
        ("anew", "mode", "anew"),
    ):
        if getattr(args, flag):
            rules[f"data.split.{key}"] = (text, f"--{flag}")
    return rules


def _without_shares(args: argparse.Namespace) -> argparse.Namespace:
    """--val and --test are shares here, not annotation files."""
    return argparse.Namespace(**{name: value for name, value in vars(args).items() if name not in ("val", "test")})


@dataclass(frozen=True, slots=True)
class _Recording:
    """A format that also writes down who went where, for `--keep` and `data.split.files`."""

    writer: WritableFormat
    config: ResolvedConfig

    def write(self, dataset: Dataset, dest: Path, copy_images: bool = False) -> Sequence[Path]:
        from detloom.data.dividing import SPLIT_FILE
        from detloom.files import write_json

        written = self.writer.write(dataset, dest, copy_images)
        write_json(dest / SPLIT_FILE, _record(dataset, self.config))
        return [*written, dest / SPLIT_FILE]


def _record(dataset: Dataset, config: ResolvedConfig) -> dict[str, Any]:
    rules = config.config.data.split.model_dump(mode="json", include={"val", "test", "seed", "stratify", "group"})
    return {
        "name": dataset.name,
        "digest": dataset.digest,
        "rules": rules,
        "sources": sources_json(dataset),
        "splits": {
            name: [{"file_name": image.file_name, "sha256": image.sha256} for image in split.images]
            for name, split in dataset.splits.items()
        },
    }


def _summary(dataset: Dataset) -> str:
    import numpy as np

    rows = []
    for split in dataset.splits.values():
        counts = np.bincount(split.labels, minlength=len(dataset.class_map)).tolist()
        rows.append((split.name, str(len(split)), *map(str, counts)))
    return console.table(("split", "images", *dataset.class_map.names), rows)

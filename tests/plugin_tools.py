"""A package of plugins installed by pip, data for it, and complete runs of `detloom` in processes that see both."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from conftest import IMPORT_ROOTS, ROOT

PACKAGE = ROOT / "tests" / "plugin_package"
COUNTS = {"train": 12, "valid": 4, "test": 4}


def pip_install(package: Path, site: Path) -> None:
    """Build and install one distribution into a folder of its own, without a network."""
    quick = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "install", *quick, "--target", str(site), str(package)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def lay_out(site: Path, name: str, module: str) -> None:
    """A distribution as an installer leaves it: one module, which is also its only plugin."""
    info = site / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[detloom]\n{name} = {name}_plugin\n")
    (site / f"{name}_plugin.py").write_text(module)


@dataclass(frozen=True)
class Field:
    """The same drawn pictures as a folder with COCO files and as a zip with `boxes.csv`, whose fields are separated by
    semicolons. objects: class name to number of objects, counted while drawing."""

    folder: Path
    archive: Path
    objects: dict[str, int]


def draw_field(place: Path) -> Field:
    spec = importlib.util.spec_from_file_location("draw_shapes", ROOT / "examples" / "draw_shapes.py")
    assert spec is not None and spec.loader is not None
    drawing = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(drawing)
    rows, objects = [], dict.fromkeys(drawing.CLASSES, 0)
    for split, count in COUNTS.items():
        drawing.write_split(place / "shapes" / split, split, count, 64, 0)
        coco = json.loads((place / "shapes" / split / "_annotations.coco.json").read_text())
        files = {image["id"]: image["file_name"] for image in coco["images"]}
        names = {category["id"]: category["name"] for category in coco["categories"]}
        for item in coco["annotations"]:
            x, y, width, height = item["bbox"]
            label = names[item["category_id"]]
            objects[label] += 1
            rows.append(f"{split}/{files[item['image_id']]};{x};{y};{x + width};{y + height};{label}\n")
    archive = place / "harvest.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted((place / "shapes").rglob("*.jpg")):
            file.write(path, path.relative_to(place / "shapes"))
        file.writestr("boxes.csv", "".join(rows))
    return Field(place / "shapes", archive, objects)


@dataclass(frozen=True)
class Run:
    """A finished process and the folder of its run."""

    process: subprocess.CompletedProcess[str]
    folder: Path

    def json(self, name: str) -> Any:
        return json.loads((self.folder / name).read_text(encoding="utf-8"))

    @property
    def config(self) -> Any:
        """config.yaml: values by section, and `origins`."""
        return yaml.safe_load((self.folder / "config.yaml").read_text(encoding="utf-8"))

    def checkpoint(self, name: str = "last.pt") -> Any:
        return torch.load(self.folder / "checkpoints" / name, weights_only=True)

    def lines(self, name: str) -> list[str]:
        return (self.folder / name).read_text(encoding="utf-8").splitlines()

    def succeeded(self) -> Run:
        assert self.process.returncode == 0, self.process.stderr
        record = self.json("run.json")
        assert record["status"] == "completed" and record["metrics"]["test/AP"] >= 0
        return self


@dataclass(frozen=True)
class Place:
    """Where runs are made: what is installed, and a folder of their own."""

    site: Path
    home: Path

    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("DETLOOM_", "ORCHARD_"))}
        return {
            **kept,
            "PYTHONPATH": os.pathsep.join([*IMPORT_ROOTS, str(self.site)]),
            "OMP_NUM_THREADS": "1",
            "DETLOOM_CACHE": str(self.home / "cache"),
        }

    def detloom(self, *arguments: str | Path, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "detloom", *map(str, arguments)],
            capture_output=True, text=True, env={**self.environment(), **(env or {})}, cwd=self.home, timeout=300,
            check=False,
        )  # fmt: skip

    def train(
        self, *arguments: str | Path, block: Sequence[str] = (), name: str = "run", env: dict[str, str] | None = None
    ) -> Run:
        """Four steps at 64 pixels, then all that follows a training. block: kinds without first-party plugins."""
        short = ["--weights", "none", "--name", name, "--batch-size", "4", "--resolution", "64", "--num-workers", "0"]
        for value in ("training.max_steps=4", "experiment.logging.log_interval=1", "validation.pictures=2"):
            short += ["--set", value]
        blocked = [f"--block-plugin={kind}.*" for kind in block]
        done = self.detloom("train", *short, *arguments, *blocked, env=env)
        return Run(done, self.home / "runs" / name)

"""What says which classes there are and where the images lie: data.yaml, Darknet's obj.data, or folders alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from detloom.data.findings import found
from detloom.data.layout import IMAGE_SUFFIXES, files_in, named_folder, read_text, shown, split_folders, split_of
from detloom.data.records import DataTree, Finding

MAX_YAML = 1 << 20
NAME_FILES = ("classes.txt", "obj.names", "classes.names", "labels.names", "names.txt", "predefined_classes.txt")
"""Files with one class name on each line. None of them is a label file."""
_USUAL = ("data", "dataset")
LOOKED_FOR = "data.yaml, obj.data, images/ beside labels/, or pictures beside .txt files with classes.txt"


@dataclass(slots=True)
class Description:
    """what: for people. base: the folder that entries are relative to. names: (class id, name, where).
    entries: split to (text, where). outside: base as written leads out of the data. keypoints: numbers after a box."""

    what: str
    home: Path
    base: Path
    names: list[tuple[int, str, str]] = field(default_factory=list)
    entries: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    keypoints: int = 0
    task: str = ""
    findings: list[Finding] = field(default_factory=list)


def describe_tree(tree: DataTree) -> Description | str:
    """Or why there is none."""
    if tree.annotations:
        named = next(iter(tree.annotations.values()))
        if len(tree.annotations) > 1 or named.suffix.lower() not in (".yaml", ".yml"):
            return f"{named.name} is no data.yaml"
        return _from_yaml(named, tree.root)
    files = [path for path in files_in(tree.root, ".yaml", ".yml") if _is_description(path)]
    for path in files:
        if path.stem.casefold() in _USUAL:
            return _from_yaml(path, tree.root)
    if len(files) > 1:
        names = ", ".join(path.name for path in files[:4])
        return f"several files describe data ({names}): give one of them instead of the folder"
    if files:
        return _from_yaml(files[0], tree.root)
    return _from_darknet(tree.root) or _from_folders(tree.root) or f"no YOLO labels found (looked for {LOOKED_FOR})"


# ---- data.yaml


def _compose(path: Path, name: str) -> dict[str, Any] | Finding:
    """Top keys to nodes. Scalars stay text: a class may be called `no`, `1e3` or `2020-01-01`."""
    text = read_text(path, name, MAX_YAML)
    if isinstance(text, Finding):
        return text
    try:
        node = yaml.compose(text, Loader=yaml.BaseLoader)
    except yaml.MarkedYAMLError as fault:
        mark = fault.problem_mark or fault.context_mark
        return found("yaml-syntax", f"{name}:{mark.line + 1 if mark else 1} ({fault.problem})")
    except yaml.YAMLError as fault:
        return found("yaml-syntax", f"{name} ({fault})")
    except RecursionError:
        return found("yaml-syntax", f"{name} (nested too deeply)")
    if not isinstance(node, yaml.MappingNode):
        return found("yaml-syntax", f"{name}:1 (`key: value` lines are due)")
    return {key.value: value for key, value in node.value if isinstance(key, yaml.ScalarNode)}


def _is_description(path: Path) -> bool:
    nodes = _compose(path, path.name)
    named = path.stem.casefold() in _USUAL
    return isinstance(nodes, dict) and "names" in nodes and (named or any(split_of(key) for key in nodes))


def _from_yaml(path: Path, root: Path) -> Description:
    name = shown(path, root)
    nodes = _compose(path, name)
    home = path.parent if path.is_relative_to(root) else root
    description = Description(name, home, home)
    if isinstance(nodes, Finding):
        description.findings.append(nodes)
        return description
    written = _text(nodes.get("path"))
    if written:
        description.base = home / written
    description.task = _text(nodes.get("task")).casefold()
    description.keypoints = _keypoints(nodes.get("kpt_shape"))
    for key, node in nodes.items():
        split = split_of(key)
        texts = list(_texts(node, name)) if split else []
        if split and texts:  # `test:` with nothing behind it is common
            description.entries.setdefault(split, []).extend(texts)
    if not description.entries and (folders := _from_folders(home)) is not None:
        description.entries = folders.entries
    description.names.extend(_names(nodes.get("names"), name, description.findings))
    count = _text(nodes.get("nc"))
    if count and description.names and count != str(len(description.names)):
        where = f"{name}:{_line(nodes['nc'])} (nc: {count}, {len(description.names)} names)"
        description.findings.append(found("class-count", where))
    return description


def _names(node: Any, name: str, findings: list[Finding]) -> Iterator[tuple[int, str, str]]:
    """From a list, or from a mapping of class index to name."""
    if isinstance(node, yaml.SequenceNode):
        pairs: list[tuple[Any, Any]] = list(enumerate(node.value))
    elif isinstance(node, yaml.MappingNode):
        pairs = [(_index(key), value) for key, value in node.value]
    else:
        if node is not None:
            findings.append(
                found("bad-record", f"{name}:{_line(node)} (`names` must be a list or a mapping)", objects=0)
            )
        return
    for index, value in pairs:
        where = f"{name}:{_line(value)}"
        text = _text(value).strip()
        if index is None or not text:
            findings.append(found("bad-record", f"{where} (a class needs an index from 0 and a name)", objects=0))
        else:
            yield index, text, f"{where}: class {index}"


def _index(node: Any) -> int | None:
    text = _text(node)
    return int(text) if text.isascii() and text.isdigit() and len(text) < 8 else None


def _texts(node: Any, name: str) -> Iterator[tuple[str, str]]:
    for value in node.value if isinstance(node, yaml.SequenceNode) else [node]:
        text = _text(value).strip()
        if text:
            yield text, f"{name}:{_line(value)}"


def _keypoints(node: Any) -> int:
    """Numbers that a pose adds to each line: points times values for each."""
    if not isinstance(node, yaml.SequenceNode):
        return 0
    sides = [_index(value) for value in node.value]
    return sides[0] * sides[1] if len(sides) == 2 and sides[0] and sides[1] else 0


def _text(node: Any) -> str:
    return str(node.value) if isinstance(node, yaml.ScalarNode) else ""


def _line(node: Any) -> int:
    return int(node.start_mark.line) + 1


# ---- without it


def _from_darknet(root: Path) -> Description | None:
    """obj.data: `train = data/train.txt`, `names = data/obj.names`."""
    path = root / "obj.data"
    text = read_text(path, "obj.data", MAX_YAML) if path.is_file() else None
    if not isinstance(text, str):
        return None
    description = Description("obj.data", root, root)
    for number, line in enumerate(text.split("\n"), start=1):
        key, equals, value = (part.strip() for part in line.partition("="))
        split = split_of(key)
        if equals and value and split:
            description.entries.setdefault(split, []).append((value, f"obj.data:{number}"))
    _add_names(description, [root])
    return description


def _from_folders(root: Path) -> Description | None:
    images, labels = named_folder(root, "images"), named_folder(root, "labels")
    if images and labels:
        description = Description("images/ and labels/", root, root)
        description.entries = _entries(split_folders(images), root) or {"all": [(images.name, "")]}
        _add_names(description, [root, labels, *split_folders(labels).values()])
        return description
    splits = split_folders(root)
    inside = {split: folder / "images" for split, folder in splits.items()}
    if any(folder.is_dir() and (folder.parent / "labels").is_dir() for folder in inside.values()):
        description = Description("images/ and labels/ in the folder of each split", root, root)
        description.entries = _entries({k: v for k, v in inside.items() if v.is_dir()}, root)
        _add_names(description, [root, *(folder.parent / "labels" for folder in inside.values())])
        return description
    if not any((folder / name).is_file() for folder in (root, *splits.values()) for name in NAME_FILES):
        return None
    flat = {split: folder for split, folder in splits.items() if files_in(folder, *IMAGE_SUFFIXES)}
    description = Description("pictures beside .txt files", root, root)
    description.entries = _entries(flat, root) or {"all": [(".", "")]}
    _add_names(description, [root, *flat.values()])
    return description


def _entries(folders: dict[str, Path], root: Path) -> dict[str, list[tuple[str, str]]]:
    return {split: [(folder.relative_to(root).as_posix(), "")] for split, folder in folders.items()}


def _add_names(description: Description, folders: list[Path]) -> None:
    for path in (folder / name for folder in folders for name in NAME_FILES):
        if path.is_file():
            name = shown(path, description.home)
            text = read_text(path, name, MAX_YAML)
            if isinstance(text, Finding):
                description.findings.append(text)
                return
            lines = text.rstrip().split("\n")
            for index, line in enumerate(lines if text.strip() else []):
                if line.strip():
                    description.names.append((index, line.strip(), f"{name}:{index + 1}"))
                else:
                    description.findings.append(
                        found("bad-line", f"{name}:{index + 1} (a class without a name)", objects=0)
                    )
            return

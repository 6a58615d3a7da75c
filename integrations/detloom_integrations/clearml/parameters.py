"""A configuration as the parameters of a task, and the edits that people make to them.

`training.lr` stands in the section `training` under the name `lr`, `augmentation.hsv.h` in `augmentation` under
`hsv/h`; what has no section stands in `run`. Values are text that `--set` would take: what comes back is read by
Detloom's own typed parser, never by the SDK's. Long values and structures are configuration objects instead.

The configuration object `detloom` is the baseline: the configuration that the texts were made of, with who set each
value. A text that differs from the baseline is an edit; everything else is derived again, so that another model or
other data bring their own defaults along.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from detloom.errors import DetloomError, Mistake
from detloom.specs import TrackedConfig, TrackerReply

BASELINE = "detloom"
TOP = "run"
"""The section of values that have none."""

LONG = 300
"""Texts above so many characters become configuration objects."""

FOREIGN_SECTIONS = ("properties",)
"""Sections that ClearML itself or its users fill with notes, not with parameters."""

FORMAT = 1

Items = Mapping[str, Mapping[str, Mapping[str, Any]]]


def place_of(key: str) -> tuple[str, str]:
    """Section and name of a dotted key."""
    section, dot, name = key.partition(".")
    return (section, name.replace(".", "/")) if dot else (TOP, key)


def key_at(section: str, name: str) -> str:
    """The dotted key of a section and a name."""
    return name if section == TOP else f"{section}.{name.replace('/', '.')}"


def hyperparams_of(config: TrackedConfig) -> dict[str, dict[str, dict[str, str]]]:
    """Every short value, in the form of `tasks.edit`."""
    sections: dict[str, dict[str, dict[str, str]]] = {}
    for key, text in config.values.items():
        if _is_long(text):
            continue
        section, name = place_of(key)
        sections.setdefault(section, {})[name] = {
            "section": section,
            "name": name,
            "value": text,
            "type": config.allowed.get(key, ""),
            "description": f"{config.descriptions.get(key, '')} [{config.origins.get(key, '')}]".strip(),
        }
    return sections


def configuration_of(config: TrackedConfig) -> dict[str, dict[str, str]]:
    """Every long value, and the baseline, in the form of `tasks.edit`."""
    objects = {}
    for key, text in config.values.items():
        if _is_long(text):
            name = "/".join(place_of(key))
            about = f"{config.descriptions.get(key, '')}; {config.allowed.get(key, '')}"
            objects[name] = {"name": name, "value": text, "type": "json", "description": about}
    baseline = {"format": FORMAT, "values": dict(config.values), "document": config.document}
    objects[BASELINE] = {
        "name": BASELINE,
        "value": json.dumps(baseline, ensure_ascii=False, indent=1),
        "type": "json",
        "description": "what the parameters were when they were written; parameters that differ are edits. Leave it.",
    }
    return objects


def _is_long(text: str) -> bool:
    return len(text) > LONG or text.startswith(("{", "[{"))


def read_edits(hyperparams: Items, configuration: Mapping[str, Mapping[str, Any]]) -> TrackerReply:
    """What a task's parameters say against its baseline. Raises DetloomError when it has none that can be read."""
    values, document = _baseline(configuration)
    texts, objects = _texts(hyperparams), _objects(configuration)
    found = {**texts, **objects}
    edits, mistakes = [], list(_twice(texts, objects))
    for key, text in values.items():
        shown = "/".join(place_of(key))
        if shown not in found:
            message = f"was removed from the task; it was {text!r}"
            hint = "add it again; the value auto means: as by default"
            mistakes.append(Mistake(key, f"task parameter {shown}", message, hint))
        elif found[shown] != text:
            edits.append((key, found[shown], f"task parameter {shown}"))
    known = {"/".join(place_of(key)) for key in values}
    # Settings of a plugin that an edit chose are new and right, and so are keys below a mapping, which come after the
    # mapping as a whole; what is no key at all is refused with the other edits.
    added = [
        (key_at(*shown.split("/", 1)), text, f"task parameter {shown}")
        for shown, text in found.items()
        if shown not in known
    ]
    return TrackerReply((*edits, *sorted(added)), document, tuple(mistakes))


def _twice(texts: Mapping[str, str], objects: Mapping[str, str]) -> Iterator[Mistake]:
    """Keys that the task holds in two places, or spelled in two ways: one of the two would be ignored."""
    places: dict[str, list[str]] = {}
    for kind, names in (("task parameter", texts), ("configuration object", objects)):
        for shown in names:
            places.setdefault(key_at(*shown.split("/", 1)), []).append(f"{kind} {shown}")
    for key, where in places.items():
        if len(where) > 1:
            yield Mistake(key, where[0], f"stands in the task twice, also as {where[1]}", "remove one of the two")


def _baseline(configuration: Mapping[str, Mapping[str, Any]]) -> tuple[dict[str, str], dict[str, Any]]:
    hint = "clone a task that Detloom made; its parameters are what may be edited"
    if BASELINE not in configuration:
        raise DetloomError(f"the task has no configuration object `{BASELINE}`", hint=hint)
    try:
        baseline = json.loads(configuration[BASELINE].get("value") or "")
        values, document = dict(baseline["values"]), dict(baseline["document"])
        form = baseline["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise DetloomError(
            f"the task's configuration object `{BASELINE}` was changed and cannot be read", hint=hint
        ) from error
    if form != FORMAT:
        raise DetloomError(
            f"the task's configuration object `{BASELINE}` has format {form}, and this version reads {FORMAT}",
            hint="execute the task with the version of Detloom that made it",
        )
    return values, document


def _texts(hyperparams: Items) -> dict[str, str]:
    return {
        f"{section}/{name}": str(item.get("value") or "")
        for section, items in hyperparams.items()
        if section not in FOREIGN_SECTIONS
        for name, item in items.items()
    }


def _objects(configuration: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    def pairs() -> Iterator[tuple[str, str]]:
        for name, item in configuration.items():
            if name != BASELINE:
                yield (name if "/" in name else f"{TOP}/{name}"), str(item.get("value") or "")

    return dict(pairs())

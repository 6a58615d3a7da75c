"""From a configuration to a dataset: source, format, validator."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from detloom.archives import ArchiveRefusedError
from detloom.data.before import Before, located
from detloom.data.dividing import Recorded, SplitRules, read_recorded
from detloom.data.facts import Progress
from detloom.data.fetch import Fetched, fetch_trees
from detloom.data.findings import DataRefusedError, Mark, found, refused, useless_codes
from detloom.data.inspect import Inspection, inspect_dataset
from detloom.data.manifest import SourceUse, part_names, whole_identity, whole_name
from detloom.data.merging import ClassRules, Part, merged
from detloom.data.policy import Policy
from detloom.data.splitting import SplitShares
from detloom.data.validate import ReadOptions, validate
from detloom.errors import DataError, PluginError
from detloom.host import describe
from detloom.redaction import redacted

if TYPE_CHECKING:
    from detloom.config import ResolvedConfig
    from detloom.data.dataset import Dataset
    from detloom.data.records import ClassRecord, DataTree, Finding, ImageRecord, Sniff
    from detloom.host import PluginHost
    from detloom.specs import Format, FormatSpec

TIE = 0.05
"""Formats whose scores differ by less than this are equally sure."""

SURE = 0.5
"""Below this a format only says that it might be meant."""

log = logging.getLogger("detloom")


@dataclass(frozen=True, slots=True)
class CheckReport:
    """What the check found. dataset: without whatever a finding left out; None when nothing can be built.
    allow: codes of errors that do not count."""

    name: str
    dataset: Dataset | None
    findings: tuple[Finding, ...]
    inspection: Inspection | None
    allow: tuple[str, ...] = ()

    @property
    def images(self) -> int:
        """Images that can be used."""
        return 0 if self.dataset is None else sum(len(split) for split in self.dataset.splits.values())

    @property
    def objects(self) -> int:
        """Objects that can be used."""
        return 0 if self.dataset is None else sum(len(split.labels) for split in self.dataset.splits.values())

    @property
    def images_left_out(self) -> int:
        """Listed images that cannot be used."""
        return sum(finding.images for finding in self.findings)

    @property
    def objects_left_out(self) -> int:
        """Listed objects that cannot be used; those of images that cannot be read at all are not known."""
        return sum(finding.objects for finding in self.findings)

    @property
    def refused(self) -> list[Finding]:
        """The errors that stop a training."""
        return refused(self.findings, self.allow)


def load_dataset(
    config: ResolvedConfig,
    host: PluginHost,
    *,
    progress: Progress | None = None,
    for_training: bool = True,
    before: Before | None = None,
) -> Dataset:
    """Raises DataError when the data are not there, and DataRefusedError for findings that are errors and not allowed.

    for_training: data without a validation split are split; without it the splits are taken as they are (one json
    for everything is then the split `all`). progress(images done, images). before: what an earlier
    run says of them; they are used as they were then where this machine still has them.
    """
    name, dataset, findings = _read(config, host, progress, for_training, before)
    for remark in useless_codes(config.config.data.allow, findings):
        log.warning("data.allow: %s", remark)
    if dataset is None or refused(findings, config.config.data.allow):
        raise DataRefusedError(name, findings, config.config.data.allow)
    return dataset


def check(
    config: ResolvedConfig,
    host: PluginHost,
    *,
    progress: Progress | None = None,
    for_training: bool = True,
    marks: list[Mark] | None = None,
) -> CheckReport:
    """Everything that can be said of the data. marks: gets every single place of every finding. Raises DataError only
    when there are none."""
    try:
        name, dataset, findings = _read(config, host, progress, for_training, marks=marks)
    except ArchiveRefusedError as fault:
        return CheckReport("data", None, (found(fault.code, fault.where),), None, tuple(config.config.data.allow))
    inspection = None if dataset is None else inspect_dataset(dataset, host)
    return CheckReport(name, dataset, findings, inspection, tuple(config.config.data.allow))


def _read(
    config: ResolvedConfig,
    host: PluginHost,
    progress: Progress | None,
    for_training: bool,
    before: Before | None = None,
    marks: list[Mark] | None = None,
) -> tuple[str, Dataset | None, tuple[Finding, ...]]:
    data = config.config.data
    sources = [_Read(one, *choose_format(config, host, one)) for one in fetch_trees(config, host, before)]
    names = part_names([one.fetched.element.name or data_name(one.fetched.tree) for one in sources])
    rules = ClassRules(data.class_aliases, data.drop_classes)
    several = len(sources) > 1
    parts = [
        Part(name if several else "", _records(host, one.spec, one.format, one.fetched.tree))
        for name, one in zip(names, sources, strict=True)
    ]
    split = _split_rules(config, before.folders if before else ())
    policy = Policy(data.policy, tuple(data.allow), data.max_left_out)
    options = ReadOptions(
        split, for_training, progress, policy, data.near_duplicates, marks, data.conflicts, data.size_mismatch
    )
    records = merged(parts, rules) if several or rules else parts[0].records
    dataset, findings = validate(whole_name(names), records, options)
    if dataset is not None:
        uses = tuple(_use(one, part, dataset, host) for one, part in zip(sources, parts, strict=True))
        source, revision = whole_identity(uses)
        dataset = replace(dataset, source=source, revision=revision, sources=uses)
    return whole_name(names), dataset, findings


@dataclass(frozen=True, slots=True)
class _Read:
    """A source whose data are here, and the format that reads them."""

    fetched: Fetched
    spec: FormatSpec
    format: Format


def _split_rules(config: ResolvedConfig, folders: Sequence[Path]) -> SplitRules:
    split = located(config.config.data.split, folders)
    shares = SplitShares(split.val, split.test, split.seed, split.stratify)
    recorded = read_recorded(Path(split.files).expanduser()) if split.files else Recorded()
    return SplitRules(shares, split.mode == "anew", split.group or "", recorded)


def _use(one: _Read, part: Part, dataset: Dataset, host: PluginHost) -> SourceUse:
    """What a source gave to the whole."""
    mine = {
        name: [number for number, image in enumerate(split.images) if image.source == part.name]
        for name, split in dataset.splits.items()
    }
    return SourceUse(
        name=part.name or one.fetched.element.name or data_name(one.fetched.tree),
        type=host.qualified(one.fetched.element.spec),
        format=host.qualified(one.spec),
        identity=redacted(one.fetched.plan.identity),
        revision=one.fetched.plan.revision,
        images={name: len(numbers) for name, numbers in mine.items()},
        objects={
            name: int(sum(dataset.splits[name].starts[n + 1] - dataset.splits[name].starts[n] for n in numbers))
            for name, numbers in mine.items()
        },
        classes=dict(sorted(part.classes.items())) or {name: name for name in dataset.class_map.names},
    )


def choose_format(config: ResolvedConfig, host: PluginHost, fetched: Fetched) -> tuple[FormatSpec, Format]:
    """The named format, or the one that is surest. Raises DataError with every format's reason, PluginError when there
    is no format at all."""
    from detloom.specs import FormatSpec

    named, tree = fetched.element.format, fetched.tree
    if named is not None:
        with host.blamed(named):
            return named, named.build(fetched.element.format_settings)
    tried = []
    for spec in host.specs(FormatSpec):
        try:
            candidate = spec.build(spec.settings())
            sniff = candidate.sniff(tree)
        except Exception as error:  # data of another format must not suffer from it
            log.warning("format %s could not look at the data: %s", host.qualified(spec), describe(error))
            continue
        tried.append((sniff, spec, candidate))
    if not tried:
        blocked = host.advice(FormatSpec, config.config.data.format)
        raise PluginError("no plugin is here that could read annotations", hint="\n  ".join(blocked))
    best = max(tried, key=lambda one: one[0].score)
    if best[0].score <= 0:
        reasons = "".join(f"\n  {host.qualified(spec)}: {sniff.reason}" for sniff, spec, _ in tried)
        raise DataError(
            f"{tree.root} holds no annotations that can be read:{reasons}",
            hint="name the annotation files with --train, --val and --test, or the format with data.format",
        )
    _refuse_a_tie(best, tried, host, tree)
    return best[1], best[2]


Tried = tuple["Sniff", "FormatSpec", "Format"]


def _refuse_a_tie(best: Tried, tried: Sequence[Tried], host: PluginHost, tree: DataTree) -> None:
    """Two formats that are equally sure: their annotations may differ, so neither is taken in silence."""
    equal = [one for one in tried if one[0].score > best[0].score - TIE and one[0].score >= SURE]
    if len(equal) > 1:
        reasons = "".join(f"\n  {host.qualified(spec)}: {sniff.reason}" for sniff, spec, _ in equal)
        names = " or ".join(f"--set data.format={host.qualified(spec)}" for _, spec, _ in equal)
        raise DataError(f"{tree.root} holds annotations in several formats:{reasons}", hint=f"say which: {names}")


def _records(
    host: PluginHost, spec: FormatSpec, chosen: Format, tree: DataTree
) -> Iterator[ClassRecord | ImageRecord | Finding]:
    with host.blamed(spec):
        yield from chosen.read(tree)


def data_name(tree: DataTree) -> str:
    """What the data are called: as the source says, else the folder, or the json file when there is one for all."""
    if tree.name:
        return tree.name
    only: Sequence[Path] = list(tree.annotations.values()) if set(tree.annotations) == {"all"} else []
    return only[0].stem if only else tree.root.resolve().name

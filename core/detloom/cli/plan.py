"""`detloom plan`: what a training will be, before it is started."""

from __future__ import annotations

import argparse
import shlex
from typing import TYPE_CHECKING

from detloom.cli import console
from detloom.cli.options import add_run_arguments, rewrite_keys, run_layers
from detloom.cli.source_options import says_where

if TYPE_CHECKING:
    from detloom.train.planning import TrainingPlan

prepare = rewrite_keys
OWN = {"--memory": 1, "--classes": 1, "--objects": 1, "--json": 0}
"""Our own flags and how many values each takes: they are no part of the command to type next."""

BATCH, ACCUMULATION = "training.batch_size", "training.gradient_accumulation"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_run_arguments(parser)
    parser.add_argument(
        "--memory", type=_positive, metavar="GB", help="what the training may take; without it: most of what is free"
    )
    parser.add_argument("--classes", type=_count, default=80, metavar="N", help="without DATA: how many classes (80)")
    parser.add_argument(
        "--objects", type=_count, default=20, metavar="N", help="without DATA: objects in the fullest image (20)"
    )
    parser.add_argument("--json", action="store_true", help="for programs")


def _positive(text: str) -> float:
    value = float(text)
    if not value > 0:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not 1 or more")
    return value


def run(args: argparse.Namespace) -> int:
    """The arguments of `detloom train`; reads the data where they are named, and trains nothing that is kept."""
    from detloom.cli.data_options import read_dataset
    from detloom.config import load_env, resolve
    from detloom.host import discover
    from detloom.train.planning import plan_training

    load_env()
    host = discover()
    layers = run_layers(args, host)
    resolved = resolve(host, layers)
    named = any(says_where(entry.key) for layer in layers for entry in layer.entries)
    dataset = read_dataset(resolved, host, as_trained=True) if named else None
    if dataset is not None:
        resolved = resolved.with_data({"model.num_classes": len(dataset.class_map)}, place=dataset.name)
    limit = None if args.memory is None else args.memory * 1e9
    plan = plan_training(resolved, host, dataset, classes=args.classes, objects=args.objects, limit=limit)
    following = next_command(plan, args.argv, named=named)
    if args.json:
        console.write_json({**plan.to_json(), "next": following})
        return 0
    for line in plan.lines():
        console.write(line)
    console.write(f"next     {following}" if following else f"next     {_smaller(plan)}")
    return 0


def next_command(plan: TrainingPlan, argv: list[str], *, named: bool) -> str:
    """The training to type, with a batch that fits and as many images a step as were asked for, or as many as there
    are; empty when no batch fits."""
    advised = plan.advised()
    if advised is None:
        return ""
    rest = _without(argv, OWN)
    if advised != (plan.batch_size, plan.accumulation):
        rest = _without_keys(_without(rest, {"--batch-size": 1}), {BATCH, ACCUMULATION})
        # Before `--`, after which nothing is a flag.
        at = rest.index("--") if "--" in rest else len(rest)
        rest[at:at] = ["--batch-size", str(advised[0]), "--set", f"{ACCUMULATION}={advised[1]}"]
    return shlex.join(["detloom", "train", *([] if named else ["DATA"]), *rest])


def _smaller(plan: TrainingPlan) -> str:
    need = plan.footprint.at(1) / 1e9
    return (
        f"not even one image fits ({need:.2f} GB): a smaller training.resolution or model.type, "
        "training.gradient_checkpointing=true, or adapters (model.lora.rank)"
    )


def _without(argv: list[str], flags: dict[str, int]) -> list[str]:
    rest: list[str] = []
    remaining = iter(argv)
    for argument in remaining:
        if argument == "--":
            return [*rest, argument, *remaining]
        name, equals, _ = argument.partition("=")
        if name not in flags:
            rest.append(argument)
        elif not equals:
            for _ in range(flags[name]):
                next(remaining, None)
    return rest


def _without_keys(argv: list[str], keys: set[str]) -> list[str]:
    """Without any way of writing these keys: `--set KEY=VALUE`, `--set=KEY=VALUE`, `--KEY VALUE`, `--KEY=VALUE`."""
    rest: list[str] = []
    remaining = iter(_without(argv, {f"--{key}": 1 for key in keys}))
    for argument in remaining:
        if argument == "--":
            return [*rest, argument, *remaining]
        words = [argument, *([next(remaining, "")] if argument == "--set" else [])]
        setting = words[-1].removeprefix("--set=") if argument.startswith("--set") else ""
        if setting.partition("=")[0].removeprefix("--").strip() not in keys:
            rest += words
    return rest

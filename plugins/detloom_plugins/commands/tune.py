"""`detloom tune`: search for better hyper-parameters with ClearML's optimizer, over clones of a run."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from detloom.hookspecs import hookimpl
from detloom.specs import CommandSpec

if TYPE_CHECKING:
    from detloom_integrations.clearml.optimizer import SearchResult

detloom_api = (0, 1)

_VALUES = """VALUES of --param:
  training.batch_size=4,8,16          one of these
  training.epochs=10                  always this
  augmentation.hsv.prob=0..1          any number between (whole ones where nothing else is taken)
  training.warmup_epochs=0..5/0.5     in steps
  training.lr=log:1e-5..1e-2          any number between, evenly over the orders of magnitude"""


def at_least(least: int) -> Callable[[str], int]:
    def whole_number(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = least - 1
        if number < least:
            raise argparse.ArgumentTypeError(f"found {text!r}; it takes a whole number of at least {least}")
        return number

    return whole_number


def above_zero(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"found {text!r}; it takes a number above 0")
    return number


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("base", metavar="BASE", help="id of the task to search around, or the folder of its run")
    parser.add_argument("--queue", required=True, metavar="NAME", help="the queue that trials are put into")
    parser.add_argument(
        "--param", action="append", default=[], metavar="KEY=VALUES", help="a parameter and what it is drawn from"
    )
    parser.add_argument(
        "--space", action="append", default=[], type=Path, metavar="FILE", help="the same in a YAML, JSON or TOML file"
    )
    parser.add_argument(
        "--objective", default="val/AP", metavar="SCALAR", help="what trials are judged by (default: val/AP)"
    )
    parser.add_argument(
        "--direction",
        choices=("auto", "max", "min"),
        default="auto",
        help="whether more is better; auto: not for a loss (default)",
    )
    parser.add_argument(
        "--judge", choices=("best", "last"), default="best", help="by the best value of a trial (default) or its last"
    )
    parser.add_argument(
        "--strategy",
        choices=("auto", "random", "grid", "optuna"),
        default="auto",
        help="how values are chosen; auto: optuna where installed, else random (default)",
    )
    parser.add_argument(
        "--trials", type=at_least(1), metavar="N", help="at most so many (default: 20, or the whole grid)"
    )
    parser.add_argument("--concurrent", type=at_least(1), default=2, metavar="K", help="so many at a time (default: 2)")
    parser.add_argument("--hours", type=above_zero, metavar="H", help="stop the whole search after so long")
    parser.add_argument("--trial-minutes", type=above_zero, metavar="M", help="abort a trial that takes longer")
    parser.add_argument("--seed", type=int, metavar="S", help="of the drawing; a search says its own")
    parser.add_argument(
        "--poll", type=at_least(1), default=30, metavar="SECONDS", help="between two looks at the trials (default: 30)"
    )
    parser.add_argument(
        "--paths-exist-remotely", action="store_true", help="files and folders that the base names exist for the agents"
    )
    parser.add_argument("--top", type=at_least(1), default=10, metavar="N", help="rows of the table (default: 10)")
    parser.add_argument("--json", action="store_true", help="the answer as JSON: every trial")
    parser.epilog = f"{_VALUES}\n\n{parser.epilog or ''}"


def run(args: argparse.Namespace) -> int:
    import shlex

    from detloom.cli.console import note, write, write_json
    from detloom.config import load_env
    from detloom_integrations.clearml.environment import demand_package
    from detloom_integrations.clearml.optimizer import TuneRequest
    from detloom_integrations.clearml.tuning import tune

    load_env()
    demand_package("a search on ClearML")
    request = TuneRequest(
        base=args.base,
        queue=args.queue,
        params=args.param,
        spaces=args.space,
        objective=args.objective,
        direction=args.direction,
        judge=args.judge,
        strategy=args.strategy,
        trials=args.trials,
        concurrent=args.concurrent,
        hours=args.hours,
        trial_minutes=args.trial_minutes,
        seed=args.seed,
        poll_s=args.poll,
        paths_exist_remotely=args.paths_exist_remotely,
        command=shlex.join(["detloom", "tune", *args.argv]),
    )
    result = tune(request, note)
    if args.json:
        write_json(result.to_json())
    else:
        write(report(result, args.top))
    return result.exit_code


def report(result: SearchResult, top: int) -> str:
    """A table of the best trials, and every trial that came to nothing by name."""
    from detloom.cli.console import table

    best = result.best
    keys = list(best[0].parameters) if best else []
    lines = [f"{len(best)} of {len(result.trials)} trials reported {result.objective.name}; best by {result.objective}"]
    if best:
        rows = [
            [
                str(rank),
                f"{trial.value:.4g}",
                *(_short(trial.parameters[key]) for key in keys),
                trial.state,
                trial.id,
                trial.url,
            ]
            for rank, trial in enumerate(best[:top], start=1)
        ]
        lines.append(table(["rank", result.objective.name, *keys, "state", "task", "address"], rows))
        if len(best) > top:
            lines.append(f"... and {len(best) - top} more: --top {len(best)}")
    for trial in result.trials:
        if trial not in best:
            said = f": {trial.message}" if trial.message else ""
            lines.append(f"{trial.state}: {trial.name} ({trial.id}){said}")
    if result.failure:
        lines.append(f"ClearML's optimizer broke: {result.failure}")
    return "\n".join([*lines, f"search {result.task} (strategy {result.strategy}, seed {result.seed})  {result.url}"])


def _short(text: str) -> str:
    """Four digits that count are enough to compare; --json has them all."""
    try:
        return f"{float(text):.4g}" if len(text) > 8 else text
    except ValueError:
        return text


@hookimpl
def detloom_commands() -> Iterable[CommandSpec]:
    return [
        CommandSpec(
            name="tune",
            summary="search for better hyper-parameters on a ClearML queue",
            add_arguments=add_arguments,
            run=run,
        )
    ]

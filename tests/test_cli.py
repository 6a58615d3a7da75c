"""The front of the command line: commands, messages, exit codes."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

import detloom
from detloom.cli import console, main
from detloom.cli import main as front
from detloom.cli.main import COMMANDS
from detloom.errors import ConfigError, DataError, DetloomError, Mistake

ROOT = Path(__file__).resolve().parent.parent


def stub_command(monkeypatch: pytest.MonkeyPatch, run: Callable[[argparse.Namespace], int]) -> None:
    """Put a command called `stub` into the table."""
    module = ModuleType("detloom.cli.stub")
    module.add_arguments = lambda parser: parser.add_argument("rest", nargs="*")  # type: ignore[attr-defined]
    module.run = run  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "detloom.cli.stub", module)
    monkeypatch.setitem(COMMANDS, "stub", "a stub")


# --- commands ---


def test_help_names_every_command_and_is_printed_without_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0 and main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(f"  {name} " in out for name in COMMANDS)


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"detloom {detloom.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["trian"], ["no command 'trian'", "did you mean train?"]),
        (["--lr", "1"], ["a command must come first"]),
        (["train", "--epoch", "3"], ["unknown argument --epoch", "did you mean --epochs?"]),
        (["train", "--frobnicate"], ["unknown argument --frobnicate", "--section.key VALUE"]),
        (["train", "--epochs"], ["--epochs", "expected one argument"]),
        (["plugins", "lits"], ["'lits' is none of list", "did you mean list?"]),
        (["config", "shw"], ["did you mean show?"]),
        (["config"], ["show | schema | explain"]),
        (["config", "show", "--jsn"], ["did you mean --json?"]),
        (["train", "--block-plugin"], ["--block-plugin needs a pattern"]),
        (["train"], ["no data were named", "detloom train DATA"]),
        (["train", "DATA", "--set", "training.lr"], ["takes KEY=VALUE"]),
        (["train", "DATA", "--lr", "fast"], ["training.lr (--lr)", "a number above 0"]),
        (["train", "DATA", "--training.lrr", "1"], ["training.lrr (--training.lrr)", "did you mean training.lr"]),
        (["train", "DATA", "--lr", "1", "--set", "training.lr=2"], ["by --lr (1) and by --set (2)"]),
        (["train", "DATA", "--config", "gone.yaml"], ["gone.yaml", "there is no such file"]),
    ],
)
def test_wrong_usage_exits_2_and_says_what_was_meant(
    arguments: list[str], words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert all(word in captured.err for word in words), captured.err
    assert captured.out == "" and "Traceback" not in captured.err


def test_a_command_of_a_plugin_is_listed_and_called(tmp_path: Path) -> None:
    info = tmp_path / "site" / "greeter-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: greeter\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[detloom]\ngreeter = greeter_plugin\n")
    (tmp_path / "site" / "greeter_plugin.py").write_text(
        "import detloom\ndetloom_api = (0, 1)\n\ndef add(parser):\n    parser.add_argument('name')\n\n"
        "def run(args):\n    print('hello', args.name)\n    return 7\n\n@detloom.hookimpl\n"
        "def detloom_commands():\n"
        "    yield detloom.CommandSpec(name='greet', summary='greets you', add_arguments=add, run=run)\n"
        "    yield detloom.CommandSpec(name='train', summary='a clash', run=run)\n"
    )
    roots = [str(ROOT / name) for name in ("core", "plugins", "schemas")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*roots, str(tmp_path / "site")])}

    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "detloom", *arguments], capture_output=True, text=True, env=environment, check=False
        )

    listed = call("--help").stdout
    assert "greet " in listed and "greets you" in listed
    # A command of ours keeps its name; the clash must be called by its plugin.
    assert "greeter:train" in listed
    done = call("greet", "you")
    assert (done.stdout, done.returncode) == ("hello you\n", 7)
    assert call("greet").returncode == 2
    assert "did you mean greet?" in call("gret").stderr


# --- failures ---


@pytest.mark.parametrize(
    ("failure", "code", "words"),
    [
        (DataError("images are missing", hint="run detloom check"), 3, ["images are missing", "hint: run detloom"]),
        (KeyboardInterrupt(), 130, ["interrupted"]),
        (ZeroDivisionError("division by zero"), 1, ["ZeroDivisionError: division by zero", "--debug"]),
        (DetloomError("failed"), 1, ["failed"]),
        (SystemExit(4), 4, []),
    ],
)
def test_every_failure_becomes_a_sentence_and_an_exit_code(
    failure: BaseException,
    code: int,
    words: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def run(args: argparse.Namespace) -> int:
        raise failure

    stub_command(monkeypatch, run)
    assert main(["stub"]) == code
    quiet = capsys.readouterr().err
    assert all(word in quiet for word in words) and "Traceback" not in quiet
    if isinstance(failure, Exception):
        assert main(["stub", "--debug"]) == code
        assert "Traceback" in capsys.readouterr().err


def test_options_for_every_command_are_taken_out_wherever_they_stand(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[list[str], list[str], str]] = []

    def run(args: argparse.Namespace) -> int:
        seen.append((args.rest, args.argv, os.environ.get("DETLOOM_BLOCK_PLUGINS", "")))
        return 0

    stub_command(monkeypatch, run)
    monkeypatch.setenv("DETLOOM_BLOCK_PLUGINS", "losses.*")
    assert main(["--block-plugin", "a.*", "stub", "--debug", "x", "--block-plugin=b.*", "--", "--debug"]) == 0
    assert seen == [(["x", "--debug"], ["x", "--", "--debug"], "losses.*,a.*,b.*")]
    assert os.environ["DETLOOM_BLOCK_PLUGINS"] == "losses.*"


def test_a_closed_pipe_is_quiet() -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(str(ROOT / name) for name in ("core", "schemas"))}
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "detloom", "plugins", "list"],
        stdout=writer, stderr=subprocess.PIPE, text=True, env=environment, check=False,
    )  # fmt: skip
    os.close(writer)
    assert done.stderr == "" and done.returncode == 1


def test_a_mistake_in_a_file_is_shown_with_its_line_and_a_mark(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("training:\n  epoch: 50\n")
    assert main(["train", "DATA", "--config", str(file)]) == 2
    err = capsys.readouterr().err.splitlines()
    start = err.index(f"   --> {file}:2:3")
    assert err[start + 1] == "       2 |   epoch: 50" and err[start + 2] == "         |   ^^^^^"
    assert any("did you mean training.epochs" in line for line in err)


@pytest.mark.parametrize(
    ("name", "text", "place"),
    [
        (".env", "MINIO_SECRET_KEY: hunter2secret\n", "(.env:1:1): a line must read NAME=value"),
        ("run.yaml", "data.s3:\n  secret_key: hunter2secret\n", "(run.yaml:2:3): a secret has no place here"),
        ("run.json", '{"model": {"password": "hunter2secret"}}', "(run.json:1:12): a secret has no place here"),
        ("run.toml", 'data.cvat.token = "hunter2secret"\n', "a secret has no place here"),
        ("run.yaml", "data.s3: {secret_key: hunter2secret, regoin: x}\n", "has no effect: s3 is not in data.source"),
        ("run.yaml", "model: {pretrain_weights: 'https://me:hunter2secret@h/x', x: 1}\n", "there is no such key"),
        ("run.yaml", "training.lr: https://me:hunter2secret@h/x\n", "found 'https://***@h/x'; allowed: a number"),
    ],
)
def test_a_line_that_holds_a_secret_is_named_and_not_shown(
    name: str,
    text: str,
    place: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name).write_text(text)
    assert main(["train", "DATA", *(["--config", name] if name != ".env" else [])]) == 2
    err = capsys.readouterr().err
    assert place in err and "hunter2secret" not in err, err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--weights", "https://user:hunter2secret@host/x.pth"], "there is no file https://***@host/x.pth"),
        (["--lr", "https://user:hunter2secret@host/x.pth"], "found 'https://***@host/x.pth'; allowed: a number"),
        (["--set", "training={password: hunter2secret}"], "is a section, not a value; found {'password': '***'}"),
    ],
)
def test_a_secret_in_an_argument_is_refused_without_showing_it(
    arguments: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", str(tmp_path), "--no-clearml", *arguments]) == 2
    err = capsys.readouterr().err
    assert said in err and "hunter2secret" not in err, err


def test_a_mistake_in_a_file_that_is_gone_is_still_reported(capsys: pytest.CaptureFixture[str]) -> None:
    console.print_error(ConfigError([Mistake("a.b", "/nowhere/run.yaml:7:3", "is wrong", "right it")]))
    assert "a.b (/nowhere/run.yaml:7:3): is wrong\n    right it" in capsys.readouterr().err


def test_colour_is_for_terminals_and_can_be_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal:
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert console.paint("x", "red", Terminal()) == "\x1b[31mx\x1b[0m"  # type: ignore[arg-type]
    monkeypatch.setenv("NO_COLOR", "1")
    assert console.paint("x", "red", Terminal()) == "x"  # type: ignore[arg-type]


def test_warnings_of_the_package_reach_the_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import logging

    def run(args: argparse.Namespace) -> int:
        logging.getLogger("detloom.x").warning("look here")
        logging.getLogger("detloom.x").info("not here")
        return 0

    stub_command(monkeypatch, run)
    main(["stub"])
    assert capsys.readouterr().err == "warning: look here\n"
    assert not logging.getLogger("detloom").handlers


# --- config and plugins ---


def test_config_show_prints_every_value_with_its_origin(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "show", "--lr", "0.5", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["values"]["training.lr"] == 0.5 and shown["origins"]["training.lr"] == "command line --lr"
    assert set(shown["values"]) == set(shown["origins"])
    assert main(["config", "show", "--lr", "0.5"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(shown["values"]) + 1
    assert any(line.split() == ["training.lr", "0.5", "command", "line", "--lr"] for line in lines)


def test_config_explain_says_what_a_key_does(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "explain", "training.ema_decay"]) == 0
    out = capsys.readouterr().out
    assert "decay of the average" in out and "at least 0 and below 1" in out and "default: 0.9999" in out
    assert main(["config", "explain", "training.optimiser"]) == 2
    assert "did you mean training.optimizer" in capsys.readouterr().err


def test_config_schema_is_a_json_schema_with_the_settings_of_chosen_plugins(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["config", "schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    assert schema["type"] == "object" and schema["additionalProperties"] is False
    section = schema["$defs"][schema["properties"]["model"]["$ref"].rpartition("/")[2]]
    assert "yolox" in section["properties"]


def test_plugins_list_is_a_table_and_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plugins", "list", "--json", "--block-plugin", "losses.giou"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["losses.giou"]["status"] == "blocked"
    assert rows["models.yolox"]["provides"]["model"][0] == "yolox-nano"
    assert main(["plugins"]) == 0
    table = capsys.readouterr().out
    assert all(name in table for name in rows)


# --- without an installation ---


def test_run_training_equals_detloom_train_and_needs_no_path(tmp_path: Path) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, ROOT / "run_training.py", "--epoch", "3"],
        capture_output=True, text=True, env=environment, cwd=tmp_path, check=False,
    )  # fmt: skip
    assert done.returncode == 2 and "run_training.py: unknown argument --epoch" in done.stderr
    done = subprocess.run(
        [sys.executable, ROOT / "run_training.py"],
        capture_output=True, text=True, env=environment, cwd=tmp_path, check=False,
    )  # fmt: skip
    assert done.returncode == 2 and "no data were named" in done.stderr


def test_the_table_of_commands_names_modules_that_exist() -> None:
    folder = ROOT / "core" / "detloom" / "cli"
    assert all((folder / f"{name}.py").is_file() for name in COMMANDS)
    assert callable(front)

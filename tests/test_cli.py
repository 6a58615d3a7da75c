"""The front of the command line: commands, flags, messages, exit codes."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import detloom
from detloom.cli import console, main
from detloom.cli import main as front
from detloom.cli.main import COMMANDS
from detloom.cli.options import add_run_arguments, rewrite_keys, run_layers
from detloom.cli.parser import Parser
from detloom.config import Layer, ResolvedConfig, resolve
from detloom.errors import ConfigError, DataError, DetloomError, Mistake
from detloom.host import PluginHost, discover

ROOT = Path(__file__).resolve().parent.parent
Cli = Callable[..., subprocess.CompletedProcess[str]]


def configured(*arguments: str, host: PluginHost | None = None) -> ResolvedConfig:
    """The configuration that this line of `detloom train` means."""
    parser = Parser(prog="detloom train")
    add_run_arguments(parser)
    known = host or discover()
    return resolve(known, run_layers(parser.parse(rewrite_keys(list(arguments))), known))


def values(*arguments: str) -> dict[str, Any]:
    return configured(*arguments).values()


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


# --- the flags of train ---


def test_each_flag_is_an_alias_of_its_key() -> None:
    given = values(
        *[
            "DATA",
            "--model",
            "yolox-s",
            "--weights",
            "w.pth",
            "--epochs",
            "3",
            "--batch-size",
            "4",
            "--lr",
            "1e-3",
            "--resolution",
            "480x640",
            "--device",
            "cpu",
            "--seed",
            "5",
            "--early-stopping",
            "--early-stopping-patience",
            "7",
            "--project-name",
            "123",
            "--task-name",
            "t",
            "--tags",
            "a",
            "v1.0",
            "--output-dir",
            "out",
            "--no-clearml",
            "--overfit-batches",
            "2",
            "--num-workers",
            "0",
            "--freeze-backbone",
            "--no-ema",
            "--export-format",
            "onnx",
            "--preset",
            "plan",
            "--train",
            "a.json",
            "--val",
            "b.json",
            "--test",
            "c.json",
            "--images",
            "imgs",
        ]
    )
    expected = {
        "data.local.path": "DATA",
        "model.type": "yolox-s",
        "model.pretrain_weights": "w.pth",
        "training.epochs": 3,
        "training.batch_size": 4,
        "training.lr": 1e-3,
        "training.resolution": [480, 640],
        "training.device": "cpu",
        "training.seed": 5,
        "training.early_stopping": True,
        "training.early_stopping_patience": 7,
        "experiment.project": "123",
        "experiment.name": "t",
        "experiment.tags": ["a", "v1.0"],
        "experiment.output_dir": "out",
        "experiment.clearml.mode": "off",
        "training.overfit_batches": 2,
        "data.num_workers": 0,
        "model.freeze_backbone": True,
        "training.use_ema": False,
        "export.format": ["onnx"],
        "preset": "plan",
        "data.local.train": "a.json",
        "data.local.val": "b.json",
        "data.local.test": "c.json",
        "data.local.images": "imgs",
    }
    assert {key: given[key] for key in expected} == expected


def test_the_line_of_the_contract_means_what_it_says() -> None:
    config = configured(
        *[
            "DATA",
            "--model",
            "yolox-nano",
            "--weights",
            "FILE",
            "--set",
            "training.max_steps=60",
            "--set",
            "training.batch_size=4",
            "--set",
            "training.resolution=320",
            "--output-dir",
            "runs",
            "--no-clearml",
        ]
    )
    keys = ("model.type", "training.max_steps", "training.batch_size", "training.resolution", "model.pretrain_weights")
    assert [config.values()[key] for key in keys] == ["yolox-nano", 60, 4, 320, "FILE"]
    assert str(config.origins["training.max_steps"]) == "command line --set"
    assert values("DATA")["model.type"] == "yolox-nano"  # without any flag


@pytest.mark.parametrize(
    "text", ["--augmentation.hflip.prob 0.1", "--augmentation.hflip.prob=0.1", "--set augmentation.hflip.prob=0.1"]
)
def test_any_key_is_a_flag(text: str) -> None:
    config = configured("DATA", "--augmentation.transforms=hflip", *text.split())
    assert config.values()["augmentation.hflip.prob"] == 0.1
    assert config.origins["augmentation.hflip.prob"].place == (
        "--set" if "--set" in text else "--augmentation.hflip.prob"
    )


def test_a_negative_number_can_follow_a_key_and_paths_with_dots_are_left_alone() -> None:
    assert rewrite_keys(["--a.b", "-1", "x.yaml", "--config", "a.b.yaml"]) == [
        "--set=--a.b=-1",
        "x.yaml",
        "--config",
        "a.b.yaml",
    ]
    assert rewrite_keys(["--", "--a.b", "1"]) == ["--", "--a.b", "1"]


@pytest.mark.parametrize(("text", "size"), [("640", 640), ("480x640", [480, 640]), ("480 640", [480, 640])])
def test_the_resolution_is_one_number_or_height_and_width(text: str, size: object) -> None:
    assert values("DATA", "--resolution", *text.split())["training.resolution"] == size


def test_a_file_stands_below_the_command_line(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("training: {epochs: 1, seed: 1, momentum: 0.1}\n")
    (tmp_path / "b.toml").write_text("[training]\nepochs = 2\nseed = 2\n")
    config = configured(
        "DATA", "--config", str(tmp_path / "a.yaml"), "--config", str(tmp_path / "b.toml"), "--epochs", "3"
    )
    found = [config.values()[f"training.{name}"] for name in ("epochs", "seed", "momentum")]
    assert found == [3, 2, 0.1]


def test_the_tensorboard_flag_adds_to_the_loggers_that_are_chosen(tmp_path: Path) -> None:
    key = "experiment.logging.loggers"
    assert values("DATA", "--set", f"{key}=[jsonl]", "--tensorboard")[key] == ["jsonl", "tensorboard"]
    assert values("DATA", "--tensorboard")[key].count("tensorboard") == 1
    (tmp_path / "a.yaml").write_text("experiment: {logging: {loggers: [console]}}\n")
    assert values("DATA", "--config", str(tmp_path / "a.yaml"), "--tensorboard")[key] == ["console", "tensorboard"]


def test_bare_sizes_are_refused_with_the_models_that_are_here() -> None:
    from config_tools import candidate, small_host
    from detloom.specs import ModelSpec

    model = ModelSpec(name="other", family="other", summary="s", licence="MIT", build=lambda s, c: None)  # type: ignore[arg-type,return-value]
    host = small_host(candidate("models", "entry point", "detloom_models", [model]))
    line = "--cvat-task-ids 100 --minio-bucket b --minio-prefix p --model-type base --epochs 200 --tags production v1.0"
    with pytest.raises(ConfigError) as raised:
        configured(*line.split(), host=host)
    text = str(raised.value)
    assert "no `cvat` source" in text and text.count("no `s3` source") == 1
    assert "'base' is a size without a family" in text


def test_flags_of_a_bucket_choose_the_source_and_its_settings() -> None:
    written = values("--minio-bucket", "b", "--minio-prefix", "p/q", "--minio-endpoint", "http://h:9000")
    assert written["data.source"] == "s3"
    assert [written[f"data.s3.{key}"] for key in ("bucket", "prefix", "endpoint")] == ["b", "p/q", "http://h:9000"]


def test_a_source_that_a_plugin_provides_is_used_by_its_flag() -> None:
    from pydantic import Field

    from config_tools import Settings, candidate, small_host
    from detloom.specs import ModelSpec, SourceSpec

    class Tasks(Settings):
        task_ids: tuple[int, ...] = Field((), description="ids of tasks")

    source = SourceSpec(name="cvat", summary="s", build=lambda settings: None, settings=Tasks)  # type: ignore[arg-type,return-value]
    large = ModelSpec(name="large", family="other", summary="s", licence="MIT", build=lambda s, c: None)  # type: ignore[arg-type,return-value]
    host = small_host(
        candidate("tasks", "entry point", "detloom_sources", [source]),
        candidate("sizes", "entry point", "detloom_models", [large]),
    )
    config = configured("--cvat-task-ids", "4", "5", "--model-type", "large", host=host)
    assert config.values()["data.source"] == "tasks:cvat"
    assert config.values()["data.plugins.cvat.task_ids"] == [4, 5]
    assert config.values()["model.type"] == "sizes:large"


# --- train hands over ---


@pytest.fixture
def handed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[Any, Any, list[str]]]:
    """What `detloom train` hands to the run (its configuration, or the layers of a resumed one); the run itself is
    left out."""
    calls: list[tuple[Any, Any, list[str]]] = []

    def train_run(resolved: ResolvedConfig, host: PluginHost, *, argv: list[str]) -> int:
        calls.append((resolved, None, list(argv)))
        return 0

    def resume_run(resume: str, layers: list[Layer], host: PluginHost, *, argv: list[str]) -> int:
        calls.append((layers, resume, list(argv)))
        return 0

    module = ModuleType("detloom.run")
    module.train_run, module.resume_run = train_run, resume_run  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "detloom.run", module)
    monkeypatch.chdir(tmp_path)
    return calls


def test_train_hands_the_configuration_and_the_typed_arguments_to_the_run(
    handed: list[tuple[Any, Any, list[str]]],
) -> None:
    assert main(["train", "DATA", "--training.lr", "0.5", "--debug"]) == 0
    ((config, resume, argv),) = handed
    assert config.values()["training.lr"] == 0.5 and resume is None
    assert argv == ["DATA", "--training.lr", "0.5"]


@pytest.mark.parametrize(
    ("arguments", "resume"),
    [(["--resume"], "auto"), (["--resume", "auto"], "auto"), (["--resume", "runs/x"], "runs/x")],
)
def test_resume_needs_no_data(arguments: list[str], resume: str, handed: list[tuple[Any, Any, list[str]]]) -> None:
    assert main(["train", *arguments]) == 0
    assert handed[0][1] == resume


def test_under_an_agent_train_needs_no_argument(
    handed: list[tuple[Any, Any, list[str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    from config_tools import candidate, small_host
    from detloom.specs import LoggerSpec

    tracker = LoggerSpec(
        name="afar",
        summary="s",
        build=lambda settings, context: None,  # type: ignore[arg-type,return-value]
        claims=lambda environ: environ.get("MY_AGENT") == "1",
        tracker=lambda settings: None,  # type: ignore[arg-type,return-value]
    )
    host = small_host(candidate("afar", "entry point", "detloom_loggers", [tracker]))
    monkeypatch.setattr("detloom.host.discover", lambda *arguments: host)
    assert main(["train"]) == 2 and handed == []
    monkeypatch.setenv("MY_AGENT", "1")
    assert main(["train"]) == 0 and len(handed) == 1


def test_secrets_come_from_dot_env_and_stay_out_of_the_configuration(
    handed: list[tuple[Any, Any, list[str]]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DLT_CLI_SECRET", "x")
    monkeypatch.delenv("DLT_CLI_SECRET")
    (tmp_path / ".env").write_text("DLT_CLI_SECRET=hunter2\n")
    assert main(["train", "DATA"]) == 0
    assert os.environ["DLT_CLI_SECRET"] == "hunter2"
    assert "hunter2" not in handed[0][0].to_yaml()


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

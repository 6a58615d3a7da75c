"""The command line of `detloom train`: what each flag means, and what is handed to the run."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from detloom.cli import main
from detloom.cli.options import add_run_arguments, rewrite_keys, run_layers
from detloom.cli.parser import Parser
from detloom.config import Layer, ResolvedConfig, resolve
from detloom.errors import ConfigError
from detloom.host import PluginHost, discover


def configured(*arguments: str, host: PluginHost | None = None) -> ResolvedConfig:
    """The configuration that this line of `detloom train` means."""
    parser = Parser(prog="detloom train")
    add_run_arguments(parser)
    known = host or discover()
    return resolve(known, run_layers(parser.parse(rewrite_keys(list(arguments))), known))


def values(*arguments: str) -> dict[str, Any]:
    return configured(*arguments).values()


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

"""Each kind of plugin in turn comes from a package that pip installed, while Detloom's own of that kind are blocked,
and carries a complete run of the command line. The package is tests/plugin_package."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import detloom
from detloom.host import OBSERVERS
from detloom.model import build_losses
from detloom.testing import host_with_first_party
from plugin_tools import COUNTS, PACKAGE, Field, Place, Run, draw_field, lay_out, pip_install

KINDS = ("models", "sources", "formats", "augmentations", "losses", "exporters", "runtimes", "loggers", "commands")
STEPS = (1, 2, 3, 4)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    pip_install(PACKAGE, folder)
    return folder


@pytest.fixture(scope="module")
def field(tmp_path_factory: pytest.TempPathFactory) -> Field:
    return draw_field(tmp_path_factory.mktemp("field"))


@pytest.fixture
def place(site: Path, tmp_path: Path) -> Place:
    return Place(site, tmp_path)


def listed(place: Place, *arguments: str) -> dict[str, dict[str, Any]]:
    done = place.detloom("plugins", "list", "--json", *arguments)
    assert done.returncode == 0, done.stderr
    return {row["name"]: row for row in json.loads(done.stdout)}


# --- what is installed, and what blocking leaves ---


def test_an_installed_package_provides_every_kind_and_every_observer(place: Place) -> None:
    row = listed(place)["orchard"]
    assert (row["status"], row["distribution"], row["version"]) == ("ok", "orchard-vision", "1.4.2")
    assert set(row["provides"]) == {kind.removesuffix("es" if kind == "losses" else "s") for kind in KINDS}
    assert {f"detloom_{kind}" for kind in KINDS} < set(row["hooks"])
    assert len(row["hooks"]) == len(KINDS) + len(OBSERVERS)


def test_blocking_every_kind_leaves_no_plugin_of_detloom(place: Place) -> None:
    rows = listed(place, *(f"--block-plugin={kind}.*" for kind in KINDS))
    assert [name for name, row in rows.items() if row["status"] == "ok"] == ["orchard"]


# --- one kind at a time: everything else is Detloom's own ---

NO_EXPORT = ("--set", "export.format=[]")


def model_arguments(field: Field) -> list[str | Path]:
    return [field.folder, "--model", "orchard:dots-s", "--set", "model.plugins.dots.channels=6"]


def model_evidence(run: Run, field: Field) -> None:
    assert run.json("run.json")["model"]["type"] == run.config["model"]["type"] == "orchard:dots-s"
    best = run.checkpoint("best.pt")
    assert best["model"]["settings"] == {"channels": 6} and len(best["weights"]["stem.0.weight"]) == 6
    proof = run.json("exports/dots-s.onnx.json")
    assert proof["gate"]["passed"] and proof["family"] == "dots"
    assert run.config["training"]["lr"] == 0.01 and run.config["origins"]["training.lr"] == ["recipe", "orchard:dots-s"]


def source_arguments(field: Field) -> list[str | Path]:
    coco = field.folder.parent / "coco.zip"
    shutil.make_archive(str(coco.with_suffix("")), "zip", field.folder)
    return ["--set", "data.source=zip", "--set", f"data.plugins.zip.path={coco}", *NO_EXPORT]


def source_evidence(run: Run, field: Field) -> None:
    assert run.config["data"]["source"] == "orchard:zip"
    splits = run.json("data.json")["splits"]
    assert [splits[name]["images"] for name in ("train", "val", "test")] == list(COUNTS.values())
    assert run.json("run.json")["data"]["name"] == "coco"


def format_arguments(field: Field) -> list[str | Path]:
    shutil.unpack_archive(field.archive, field.folder.parent / "table")
    return [field.folder.parent / "table", "--set", "data.format=table", "--set", "data.plugins.table.delimiter=;"]


def format_evidence(run: Run, field: Field) -> None:
    assert run.config["data"]["format"] == "orchard:table"
    classes = run.json("data.json")["classes"]
    assert {row["name"]: sum(row["objects"].values()) for row in classes} == field.objects


def augmentation_arguments(field: Field) -> list[str | Path]:
    chosen = ("--set", "augmentation.transforms=[blend]", "--augmentation.plugins.blend.strength", "0.25")
    return [field.folder, *chosen, *NO_EXPORT]


def augmentation_evidence(run: Run, field: Field) -> None:
    assert run.config["augmentation"]["transforms"] == ["orchard:blend"]
    assert run.config["augmentation"]["plugins"]["blend"] == {"strength": 0.25}
    # Four steps of four images, each with the one other sample that was asked for.
    assert run.checkpoint()["training"]["plugins"]["orchard:blend"] == {"samples": 16, "extras": 16}


def loss_arguments(field: Field) -> list[str | Path]:
    chosen = ("--set", "loss.classification=brier", "--set", "loss.box=sides", "--set", "loss.plugins.sides.unit_px=16")
    return [field.folder, *chosen, *NO_EXPORT]


def loss_evidence(run: Run, field: Field) -> None:
    loss = run.config["loss"]
    assert (loss["classification"], loss["box"]) == ("orchard:brier", "orchard:sides")
    assert loss["plugins"]["sides"] == {"unit_px": 16.0}
    calls = run.checkpoint()["training"]["plugins"]
    assert calls["orchard:brier"] == calls["orchard:sides"] and calls["orchard:sides"]["calls"] >= len(STEPS)


def exporter_arguments(field: Field) -> list[str | Path]:
    return [field.folder, "--export-format", "crate"]


def exporter_evidence(run: Run, field: Field) -> None:
    assert run.config["export"]["format"] == ["orchard:crate"]
    proof = run.json("exports/yolox-nano.crate.json")
    assert proof["exporter"] == "crate" and proof["runtime"] == "orchard:torchscript"
    assert proof["gate"]["passed"] and proof["gate"]["images"] == COUNTS["valid"]
    file = (run.folder / "exports" / proof["file"]).read_bytes()
    assert proof["file"] == "yolox-nano.crate" and hashlib.sha256(file).hexdigest() == proof["sha256"]


def runtime_arguments(field: Field) -> list[str | Path]:
    return [field.folder, "--export-format", "torchscript"]


def runtime_evidence(run: Run, field: Field) -> None:
    # The exporter names the runtime `torchscript`; with Detloom's own blocked, only the package has one.
    proof = run.json("exports/yolox-nano.torchscript.json")
    assert proof["runtime"] == "torchscript" and proof["gate"]["passed"]


def logger_arguments(field: Field) -> list[str | Path]:
    chosen = ("--set", "experiment.logging.loggers=[diary]", "--set", "experiment.logging.plugins.diary.file=field.csv")
    return [field.folder, *chosen, *NO_EXPORT]


def logger_evidence(run: Run, field: Field) -> None:
    assert run.config["experiment"]["logging"]["loggers"] == ["orchard:diary"]
    scalars = diary(run, "field.csv")
    assert [step for step, _ in scalars["train/loss"]][:3] == [1, 2, 3]
    recorded = run.json("run.json")["metrics"]
    assert {name: scalars[name][-1][1] for name in recorded} == pytest.approx(recorded)
    kinds = [line.split(",")[0] for line in run.lines("field.csv")]
    assert {"scalar", "plot", "image", "table", "artifact", "model"} <= set(kinds)
    assert run.lines("field.csv")[-1] == "close,completed"
    assert not (run.folder / "metrics.jsonl").exists()


def diary(run: Run, file: str = "diary.csv") -> dict[str, list[tuple[int, float]]]:
    """Scalar to its (step, value) pairs, as the package's logger wrote them."""
    scalars: dict[str, list[tuple[int, float]]] = {}
    for row in (line.split(",") for line in run.lines(file)):
        if row[0] == "scalar":
            scalars.setdefault(row[3], []).append((int(row[1]), float(row[4])))
    return scalars


Arguments = Callable[[Field], list[str | Path]]
Evidence = Callable[[Run, Field], None]
CASES: dict[str, tuple[Arguments, Evidence]] = {
    "models": (model_arguments, model_evidence),
    "sources": (source_arguments, source_evidence),
    "formats": (format_arguments, format_evidence),
    "augmentations": (augmentation_arguments, augmentation_evidence),
    "losses": (loss_arguments, loss_evidence),
    "exporters": (exporter_arguments, exporter_evidence),
    "runtimes": (runtime_arguments, runtime_evidence),
    "loggers": (logger_arguments, logger_evidence),
}


@pytest.mark.parametrize("kind", CASES)
def test_a_run_is_carried_by_a_plugin_from_elsewhere(kind: str, place: Place, field: Field) -> None:
    arguments, evidence = CASES[kind]
    run = place.train(*arguments(field), block=[kind]).succeeded()
    assert {"name": "orchard", "distribution": "orchard-vision", "version": "1.4.2"} in run.json("run.json")["plugins"]
    evidence(run, field)


def test_a_run_is_carried_by_a_command_from_elsewhere(place: Place, field: Field) -> None:
    values = ("model.type=dots-s", "experiment.name=run", "training.max_steps=2")
    done = place.detloom("harvest", field.folder, *values, "--block-plugin=commands.*")
    run = Run(done, place.home / "runs" / "run").succeeded()
    assert done.stdout.endswith("harvested\n")
    assert run.config["origins"]["training.max_steps"] == ["file"]


# --- all kinds at once, under an agent that edits, stops and goes on elsewhere ---

EDITS = {
    "training.lr": "0.005",
    "training.scheduler": "constant",
    "data.plugins.table.delimiter": ";",
    "loss.classification": "brier",
    "loss.box": "orchard:sides",
}


def agent_arguments(field: Field) -> list[str]:
    """What the defaults would take from Detloom's own plugins must be named; the data are a zip with a table."""
    chosen = ("data.source=zip", f"data.plugins.zip.path={field.archive}", "data.format=table", "export.format=[crate]")
    listed = ("model.type=dots-s", "augmentation.transforms=[blend]", "experiment.logging.loggers=[diary]")
    return [f"--set={value}" for value in (*chosen, *listed)]


def test_a_package_carries_a_tracked_run_alone_and_its_tracker_edits_stops_and_restores_it(
    place: Place, field: Field
) -> None:
    server = place.home / "server"
    server.mkdir()
    (server / "edits.json").write_text(json.dumps(EDITS))
    (server / "stop").touch()
    agent = {"ORCHARD_SERVER": str(server)}

    stopped = place.train(*agent_arguments(field), block=KINDS, env=agent)
    assert stopped.process.returncode == 130 and "--resume" in stopped.process.stderr
    record = stopped.json("run.json")
    assert record["status"] == "interrupted" and [row["name"] for row in record["plugins"]] == ["orchard"]
    seen = json.loads((server / "seen.json").read_text())
    assert seen["values"]["training.lr"] == "0.01" and seen["origins"]["training.lr"] == "recipe"
    assert json.loads((server / "effective.json").read_text())["training.lr"] == "0.005"
    assert "last 1" in (server / "kept.txt").read_text()
    assert (server / "closed.txt").read_text().startswith("interrupted: stopped at step 1")
    assert record["trackers"] == {"orchard:diary": {"folder": str(server)}}
    config = stopped.config
    assert config["training"]["lr"] == 0.005 and config["origins"]["training.lr"] == ["tracker", "edits.json"]
    assert config["loss"]["box"] == "orchard:sides"
    # The recipe holds where nobody edited.
    assert config["origins"]["training.resolution"][0] == "command line" and config["loss"]["box_weight"] == 2
    assert config["origins"]["loss.box_weight"][0] == "recipe"
    (server / "stop").unlink()
    shutil.copy(stopped.folder / "checkpoints" / "last.pt", server / "last.pt")

    resumed = place.detloom("train", "--resume", stopped.folder, *(f"--block-plugin={kind}.*" for kind in KINDS))
    here = Run(resumed, stopped.folder).succeeded()
    scalars = diary(here)
    assert sorted({step for step, _ in scalars["train/loss"]}) == list(STEPS)
    assert {value for _, value in scalars["train/lr"]} == {0.005}
    assert here.json("exports/dots-s.crate.json")["gate"]["passed"]
    assert here.lines("events.txt") == [
        "RunStarted disc square star triangle",
        "EpochStarted 0 0",
        "CheckpointSaved last.pt True",
        "RunFinished interrupted",
        "RunStarted disc square star triangle",
        "EpochStarted 0 1",
        "ValidationFinished 0 3 True",
        "EpochFinished 0 3 True",
        "CheckpointSaved best.pt True",
        "CheckpointSaved last.pt True",
        "EpochStarted 1 3",
        "ValidationFinished 1 4 True",
        "EpochFinished 1 4 True",
        *(["CheckpointSaved best.pt True"] if here.json("run.json")["best"]["epoch"] == 1 else []),
        "CheckpointSaved last.pt True",
        "RunFinished completed",
    ]

    # Another machine: an empty folder, the state from the server.
    elsewhere = place.train(*agent_arguments(field), block=KINDS, env=agent, name="elsewhere").succeeded()
    assert min(step for step, _ in diary(elsewhere)["train/loss"]) == 2
    one, other = here.checkpoint()["training"], elsewhere.checkpoint()["training"]
    assert all(torch.equal(tensor, other["model"][name]) for name, tensor in one["model"].items())
    assert one["plugins"] == other["plugins"] and one["plugins"]["orchard:blend"]["samples"] == 16


# --- settings ---


def test_settings_of_a_package_are_keys_like_any_others(place: Place) -> None:
    chosen = ("--set", "augmentation.transforms=[hflip, orchard:blend]")
    done = place.detloom("config", "show", "--json", *chosen, "--set", "augmentation.plugins.blend.strength=0.75")
    shown = json.loads(done.stdout)
    assert shown["values"]["augmentation.plugins.blend.strength"] == 0.75
    assert shown["origins"]["augmentation.plugins.blend.strength"] == "command line --set"
    explained = place.detloom("config", "explain", "augmentation.plugins.blend.strength", *chosen)
    assert "share of the other picture" in explained.stdout and "from 0 to 1" in explained.stdout
    schema = json.loads(place.detloom("config", "schema", *chosen).stdout)
    assert "share of the other picture" in json.dumps(schema)
    wrong = place.detloom("config", "show", *chosen, "--set", "augmentation.plugins.blend.strenght=2")
    assert wrong.returncode == 2 and "did you mean augmentation.plugins.blend.strength?" in wrong.stderr


# --- plugins that fail ---

BRAMBLE = "import a_package_that_is_not_there\n"
NETTLE = """
import detloom

detloom_api = (0, 1)


def sting(*arguments, **names):
    raise RuntimeError("sting")


class Logger:
    scalars = plot = image = table = artifact = model = close = sting


class Tracker:
    stop_requested = keep_checkpoint = close = sting

    def connect(self, config):
        return detloom.TrackerReply()

    def confirm(self, config, settings): ...

    def identity(self):
        return {}

    def restore_checkpoint(self, kind, dest):
        return None


class Format:
    sniff = read = sting


class Exporter:
    export = sting


@detloom.hookimpl
def detloom_loggers():
    yield detloom.LoggerSpec(
        name="burn", summary="raises", build=lambda s, c: Logger(), tracker=lambda s: Tracker(), claims=sting
    )


@detloom.hookimpl
def detloom_formats():
    yield detloom.FormatSpec(name="burn", summary="raises", build=lambda settings: Format())


@detloom.hookimpl
def detloom_exporters():
    yield detloom.ExporterSpec(
        name="burn", summary="raises", suffix=".burn", runtime="none", build=lambda settings: Exporter()
    )


@detloom.hookimpl
def detloom_run_started(event):
    sting()


@detloom.hookimpl
def detloom_epoch_started(event):
    sting()


@detloom.hookimpl
def detloom_validation_finished(event):
    sting()


@detloom.hookimpl
def detloom_epoch_finished(event):
    sting()


@detloom.hookimpl
def detloom_checkpoint_saved(event):
    sting()


@detloom.hookimpl
def detloom_run_finished(event):
    sting()
"""


@pytest.fixture
def thorny(site: Path, tmp_path: Path) -> Place:
    """The package of the other tests beside one that cannot be imported and one that raises wherever it is called."""
    folder = tmp_path / "thorny"
    shutil.copytree(site, folder)
    lay_out(folder, "bramble", BRAMBLE)
    lay_out(folder, "nettle", NETTLE)
    return Place(folder, tmp_path)


def test_plugins_that_raise_everywhere_cost_nothing_but_themselves(thorny: Place, field: Field) -> None:
    rows = listed(thorny)
    assert rows["bramble"]["status"] == "broken" and "a_package_that_is_not_there" in rows["bramble"]["reason"]
    assert rows["nettle"]["status"] == rows["orchard"]["status"] == "ok"

    loggers = "experiment.logging.loggers=[nettle:burn, jsonl]"
    run = thorny.train(field.folder, "--model", "dots-s", "--set", loggers, "--export-format", "burn", "torchscript")
    # Everything was done; what was asked for and could not be had is the one failure.
    assert run.process.returncode == 4 and "the exporter nettle:burn failed" in run.process.stderr
    record = run.json("run.json")
    assert record["metrics"]["test/AP"] >= 0 and record["progress"]["step"] == 4
    assert run.json("exports/dots-s.torchscript.json")["gate"]["passed"]
    steps = [json.loads(line) for line in run.lines("metrics.jsonl")]
    assert {row["step"] for row in steps if "train/loss" in row} == set(STEPS)
    assert any("val/AP" in row for row in steps) and (run.folder / "report.html").is_file()
    said = "\n".join(run.lines("log.txt"))
    for hook in OBSERVERS:
        assert f"plugin nettle (nettle 1.0) failed in detloom_{hook}" in said
    assert "logger nettle:burn failed in table" in said and "switched off" in said
    assert said.count("tracker nettle:burn cannot stop this run any more") == 1
    assert "format nettle:burn could not look at the data: RuntimeError: sting" in run.process.stderr
    assert "Traceback" not in run.process.stderr


def test_a_fault_of_a_format_or_a_source_is_a_sentence_with_the_name_of_its_plugin(thorny: Place, field: Field) -> None:
    done = thorny.detloom("check", field.folder, "--set", "data.format=nettle:burn")
    assert done.returncode == 4 and "the format nettle:burn failed: RuntimeError: sting" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_fault_while_something_is_built_is_blamed_on_its_plugin() -> None:
    def sting(settings: object) -> Any:
        raise RuntimeError("sting")

    module = ModuleType("nettle")
    module.detloom_api = (0, 1)  # type: ignore[attr-defined]
    specs = [detloom.LossSpec(name="burn", summary="raises", role="box", build=sting)]
    module.detloom_losses = detloom.hookimpl(lambda: specs)  # type: ignore[attr-defined]
    host = host_with_first_party(nettle=module)
    config = detloom.resolve(host, [detloom.mapping_layer({"loss.box": "burn"})])
    with pytest.raises(detloom.PluginError, match="the loss nettle:burn failed: RuntimeError: sting"):
        build_losses(config.config, host.get(detloom.ModelSpec, "yolox-nano"), config, host)

"""Every leaf of the configuration is edited on the server, in the server's own text, and executed without arguments.

A leaf without a row here fails by name. The edits are made in a clone, as a person makes them; what came of them is
read from the run.json of a process that knew nothing but its task.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from clearml_tools import ClearMLServer, DoubleProcess
from data_tools import sound_data
from detloom.config import iter_leaves, load_saved, mapping_layer, resolve
from detloom.errors import ConfigError
from detloom.host import discover
from detloom_integrations.clearml.parameters import read_edits
from processes import Finished, Place

RICH = {
    "augmentation.transforms": ["hflip", "vflip", "affine", "hsv"],
    "loss.classification": "focal",
    "loss.box": "ciou",
    "export.format": ["onnx", "torchscript"],
    "model.pretrain_weights": "none",
}
"""Chooses first-party plugins that have settings, one loss of a role, so that their leaves exist."""

# Dotted key -> (what a person types, what the run must work with). Spellings vary on purpose.
LEGAL: dict[str, tuple[str, Any]] = {
    "preset": ("plan", "plan"),
    "training.epochs": (" 7 ", 7),
    "training.max_steps": ("2", 2),
    "training.batch_size": ("4", 4),
    "training.gradient_accumulation": ("2", 2),
    "training.resolution": ("64x96", [64, 96]),
    "training.optimizer": ("sgd", "sgd"),
    "training.lr": ("1e-3", 1e-3),
    "training.momentum": (".8", 0.8),
    "training.weight_decay": ("0", 0.0),
    "training.use_llrd": ("yes", True),
    "training.llrd_decay": ("0.75", 0.75),
    "training.head_lr_multiplier": ("2", 2.0),
    "training.backbone_lr_multiplier": ("0.5", 0.5),
    "training.scheduler": ("multistep", "multistep"),
    "training.warmup_epochs": ("0.5", 0.5),
    "training.warmup_steps": ("1", 1),
    "training.min_lr_frac": ("0.1", 0.1),
    "training.lr_milestones": ("0.5, 0.75", [0.5, 0.75]),
    "training.lr_gamma": ("0.5", 0.5),
    "training.lr_step_epochs": ("3", 3),
    "training.gradient_clip": ("10", 10.0),
    "training.use_ema": ("False", False),
    "training.ema_decay": ("0.99", 0.99),
    "training.ema_warmup_steps": ("10", 10.0),
    "training.use_swa": ("true", True),
    "training.swa_start": ("0.5", 0.5),
    "training.swa_lr_frac": (".25", 0.25),
    "training.swa_norm_batches": ("1", 1),
    "training.use_lookahead": ("Yes", True),
    "training.lookahead_steps": ("2", 2),
    "training.lookahead_alpha": ("0.8", 0.8),
    "training.unfreeze": ("{2: dark5, 3: [dark4, stem]}", {"2": ["dark5"], "3": ["dark4", "stem"]}),
    "training.multi_scale": ("true", True),
    "training.scale_min": ("32", 32),
    "training.scale_max": ("96", 96),
    "training.gradient_checkpointing": ("on", True),
    "training.precision": ("bf16", "bf16"),
    "training.force_fp16": ("true", True),
    "training.device": ("cpu", "cpu"),
    "training.seed": ("3", 3),
    "training.early_stopping": ("on", True),
    "training.early_stopping_patience": ("4", 4),
    "training.early_stopping_min_delta": ("1e-4", 1e-4),
    "training.overfit_batches": ("1", 1),
    "training.checkpoint_interval": ("2", 2),
    "training.channels_last": ("TRUE", True),
    "model.type": ("yolox-tiny", "yolox-tiny"),
    "model.pretrain_weights": ("auto", "auto"),
    "model.strict_weights": ("True", True),
    "model.num_classes": ("2", 2),
    "model.freeze": ("neck, *.bias", ["neck", "*.bias"]),
    "model.freeze_backbone": ("true", True),
    "model.lora.rank": ("2", 2),
    "model.lora.alpha": ("4", 4.0),
    "model.lora.dropout": ("0.25", 0.25),
    "model.lora.targets": ("*.dark5.*, *.dark4.*", ["*.dark5.*", "*.dark4.*"]),
    "model.yolox.objectness_weight": ("0.5", 0.5),
    "model.yolox.candidate_topk": ("5", 5),
    "model.yolox.center_radius": ("2", 2.0),
    "model.yolox.l1_frac": ("0.5", 0.5),
    "model.yolox.norm_momentum": ("0.03", 0.03),
    "data.format": ("coco", "coco"),
    "data.fetch_deadline": ("600", 600.0),
    "data.class_aliases": ("{kitten: cat, St. Bernard: dog}", {"kitten": "cat", "St. Bernard": "dog"}),
    "data.drop_classes": ("bird, horse", ["bird", "horse"]),
    "data.conflicts": ("union", "union"),
    "data.size_mismatch": ("scale", "scale"),
    "data.split.mode": ("anew", "anew"),
    "data.split.stratify": ("yes", True),
    "data.split.group": ("p\\d+", "p\\d+"),
    "data.split.files": ("lists", "lists"),
    "data.balance": ("repeat-factor", "repeat-factor"),
    "data.balance_threshold": ("0.5", 0.5),
    "data.cache": ("ram", "ram"),
    "data.split.val": ("0.25", 0.25),
    "data.split.test": ("0.25", 0.25),
    "data.split.seed": ("9", 9),
    "data.policy": ("lenient", "lenient"),
    "data.allow": ("corrupt-image", ["corrupt-image"]),
    "data.max_left_out": ("0.5", 0.5),
    "data.near_duplicates": ("off", False),
    "data.num_workers": ("1", 1),
    "data.prefetch_factor": ("3", 3),
    "data.persistent_workers": ("no", False),
    "data.pin_memory": ("off", False),
    "data.local.path": ("other", "other"),
    "data.local.images": ("pictures", "pictures"),
    "data.local.train": ("one.json", "one.json"),
    "data.local.val": ("two.json", "two.json"),
    "data.local.test": ("two.json", "two.json"),
    "augmentation.transforms": ('["hsv", "affine", "vflip", "hflip"]', ["hsv", "affine", "vflip", "hflip"]),
    "augmentation.hflip.prob": ("1", 1.0),
    "augmentation.vflip.prob": ("0.25", 0.25),
    "augmentation.affine.prob": ("0.5", 0.5),
    "augmentation.affine.degrees": ("5", 5.0),
    "augmentation.affine.translate": ("0.2", 0.2),
    "augmentation.affine.scale_min": ("0.7", 0.7),
    "augmentation.affine.scale_max": ("1.3", 1.3),
    "augmentation.affine.shear": ("2", 2.0),
    "augmentation.affine.min_visible": ("0.2", 0.2),
    "augmentation.hsv.prob": ("0.5", 0.5),
    "augmentation.hsv.h": ("0.02", 0.02),
    "augmentation.hsv.s": ("0.5", 0.5),
    "augmentation.hsv.v": ("0.5", 0.5),
    "loss.classification": ("focal", "focal"),
    "loss.box": ("giou", "giou"),
    "loss.classification_weight": ("2", 2.0),
    "loss.box_weight": ("3", 3.0),
    "loss.focal.gamma": ("1.5", 1.5),
    "loss.focal.alpha": ("0.5", 0.5),
    "loss.focal.label_smoothing": ("0.1", 0.1),
    "validation.interval": ("2", 2),
    "validation.start_epoch": ("1", 1),
    "validation.batch_size": ("2", 2),
    "validation.confidence_threshold": ("0.05", 0.05),
    "validation.nms_threshold": ("0.5", 0.5),
    "validation.max_detections": ("50", 50),
    "validation.save_best_metric": ("AP50", "AP50"),
    "validation.use_ema": ("false", False),
    "validation.save_predictions": ("yes", True),
    "validation.pictures": ("1", 1),
    "export.format": ("onnx", ["onnx"]),
    "export.half": ("true", True),
    "export.simplify": ("true", True),
    "export.postprocess": ("on", True),
    "export.tolerance": ("1", 1.0),
    "export.gate_images": ("1", 1),
    "export.onnx.opset": ("18", 18),
    "export.onnx.dynamic_batch": ("false", False),
    "experiment.project": ("another/project", "another/project"),
    "experiment.name": ("none at all", "none at all"),
    "experiment.tags": ("[edited, twice]", ["edited", "twice"]),
    "experiment.output_dir": ("elsewhere", "elsewhere"),
    "experiment.clearml.mode": ("required", "required"),
    "experiment.clearml.output_uri": ("{files}/else", "{files}/else"),
    "experiment.clearml.checkpoint_interval": ("3", 3),
    "experiment.clearml.close_timeout": ("60", 60.0),
    "experiment.clearml.spool_mb": ("16", 16.0),
    "experiment.clearml.console": ("false", False),
    "experiment.clearml.resource_monitoring": ("true", True),
    "experiment.logging.loggers": ("console, jsonl", ["console", "jsonl"]),
    "experiment.logging.log_interval": ("1", 1),
}

ONE_VALUE = {"data.source", "data.sources", "loss.classification", "loss.distribution", "loss.distribution_weight"}
"""Leaves that can take no other value here: another source, or a list of them, would take the settings of `local` away,
and leaving `focal` its own; YOLOX predicts no distributions."""

# Dotted key -> what no parser may take. Texts of any kind are legal for the leaves that are missing.
WRONG_TEXT = {
    "training.resolution": "64x",
    "training.lr_milestones": "0.5, 1.5",
    "training.precision": "fp64",
    "training.device": "tpu",
    "data.num_workers": "many",
    "data.split.group": "p(",
    "experiment.project": "",
    "training.gradient_clip": "no clipping",
    "model.num_classes": "0",
}
FREE_TEXT = {
    *("model.pretrain_weights", "data.local.path", "data.local.images", "data.local.train"),
    *("data.local.val", "data.local.test", "experiment.name", "experiment.tags", "experiment.output_dir"),
    *("experiment.clearml.output_uri", "data.drop_classes", "data.split.files"),
    *("model.freeze", "model.lora.targets"),
}
OBJECTS = {"data/class_aliases", "training/unfreeze"}
CHOICES = {
    *("model.type", "data.source", "data.format", "augmentation.transforms", "loss.classification", "loss.box"),
    *("export.format", "experiment.logging.loggers"),
}
NEVER_LEGAL = "neither a number nor a word that is known here"


def shown(key: str) -> str:
    """Section and name on the server."""
    return key.replace(".", "/") if "." in key else f"run/{key}"


@dataclass(frozen=True)
class Desk:
    """A folder with two data sets, a server, and the task of a short run that chose every plugin with settings."""

    folder: Path
    server: ClearMLServer
    base: str

    def execute(self, task: str) -> Finished:
        """As an agent starts it: the task is in progress and stands in the environment; there is no argument.

        The SDK kills a process whose task has another status, such as that of an execution before.
        """
        self.server.call("tasks.started", task=task, force=True, status_reason="", status_message="")
        return Place(self.folder, self.folder / "cache", self.server.environ(CLEARML_TASK_ID=task)).run()

    def record(self, run: str) -> dict[str, Any]:
        configuration: dict[str, Any] = json.loads((self.folder / run / "run.json").read_text())["configuration"]
        return configuration


def type_in(desk: Desk, task: str, edits: dict[str, str]) -> None:
    """Where the server shows each value: structures stand among the configuration objects."""
    desk.server.edit(task, {name: text for name, text in edits.items() if name not in OBJECTS})
    for name in OBJECTS & set(edits):
        desk.server.edit_configuration(task, name, edits[name])


def data_with_other_names(folder: Path) -> None:
    source = sound_data(folder.parent / "scratch")
    (folder / "pictures").mkdir(parents=True)
    (folder.parent / "lists").mkdir()
    (folder.parent / "lists" / "val.txt").write_text("p0.png\n")
    for split, name in (("train", "one"), ("valid", "two")):
        for image in (source / split).glob("*.png"):
            image.rename(folder / "pictures" / image.name)
        (source / split / "_annotations.coco.json").rename(folder / f"{name}.json")


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    folder = tmp_path_factory.mktemp("desk")
    sound_data(folder / "shapes")
    data_with_other_names(folder / "other")
    server = ClearMLServer(DoubleProcess.start(folder / "files"), folder / "home")
    chosen = [f"--set={key}={json.dumps(value)}" for key, value in RICH.items()]
    sized = ["--resolution", "64", "--epochs", "1", "--batch-size", "2", "--set=data.num_workers=0"]
    quiet = ["--set=experiment.clearml.resource_monitoring=false", "--set=validation.pictures=0"]
    place = Place(folder, folder / "cache", server.environ())
    done = place.run("train", "shapes", *chosen, *sized, *quiet, "--set=export.tolerance=1")
    assert done.code == 0, done.err
    (task,) = server.tasks()
    yield Desk(folder, server, task["id"])
    violations = server.violations()
    server.double.stop()
    assert violations == []


def test_every_leaf_has_a_row_here() -> None:
    leaves = {leaf.key for leaf in iter_leaves(resolve(discover(), [mapping_layer(RICH)]))}
    assert leaves - set(LEGAL) - ONE_VALUE == set() and set(LEGAL) <= leaves


def test_a_legal_edit_of_every_leaf_is_what_a_process_without_arguments_runs(desk: Desk) -> None:
    clone = desk.server.clone(desk.base, "edited")
    files = str(desk.folder / "files")
    rows = {key: (text.replace("{files}", files), value) for key, (text, value) in LEGAL.items()}
    before = desk.server.parameters(clone)
    edits = {shown(key): text for key, (text, _) in rows.items()}
    assert [name for name, text in edits.items() if before.get(name) == text] == ["loss/classification"]
    type_in(desk, clone, edits)

    done = desk.execute(clone)
    assert done.code == 0, done.err
    got = desk.record("elsewhere/none-at-all")
    expected = {key: files + "/else" if value == "{files}/else" else value for key, (_, value) in rows.items()}
    assert {key: got[key] for key in expected} == expected
    # What runs stands on the task too, so that a clone of the clone starts from it.
    after = desk.server.parameters(clone)
    assert after["training/lr"] == "0.001" and after["training/resolution"] == "[64, 96]"
    assert after["training/use_ema"] == "false" and after["data/local/path"] == "other"


def test_an_illegal_edit_of_every_leaf_is_refused_by_name(desk: Desk) -> None:
    wrong = {key: WRONG_TEXT.get(key, NEVER_LEGAL) for key in LEGAL if key not in FREE_TEXT | CHOICES}
    runs = set((desk.folder / "runs").iterdir())
    for name, texts in (("wrong values", wrong), ("wrong choices", dict.fromkeys(CHOICES, NEVER_LEGAL))):
        clone = desk.server.clone(desk.base, name)
        type_in(desk, clone, {shown(key): text for key, text in texts.items()})
        assert desk.execute(clone).code == 2
        told = desk.server.task(clone)
        assert told["status"] == "failed"
        for key, text in texts.items():
            start = f"  {key} (task parameter {shown(key)}): "
            lines = [line for line in told["status_message"].splitlines() if line.startswith(start)]
            assert len(lines) == 1, f"{key}: {told['status_message']}"
            assert repr(text) in lines[0] or "nothing" in lines[0], lines
    assert set((desk.folder / "runs").iterdir()) == runs, "a refused task made a run's folder"


def test_what_is_no_key_is_refused_and_what_was_removed_is_missed(desk: Desk) -> None:
    clone = desk.server.clone(desk.base, "other keys")
    added = {"training/learning_rate": "1", "Training/lr": "1", "General/x": "1", "model/yolox/y": "2"}
    desk.server.edit(clone, added)
    removed = {"section": "training", "name": "seed"}
    desk.server.call("tasks.delete_hyper_params", task=clone, hyperparams=[removed])
    assert desk.execute(clone).code == 2
    message = desk.server.task(clone)["status_message"]
    for name in added:
        assert f"  {name.replace('/', '.')} (task parameter {name}): " in message
    assert "training.seed (task parameter training/seed): was removed from the task; it was '0'" in message


def test_settings_of_a_plugin_that_an_edit_chose_are_taken_and_those_of_one_that_left_are_refused(desk: Desk) -> None:
    clone = desk.server.clone(desk.base, "less")
    desk.server.edit(clone, {"augmentation/transforms": "hflip", "augmentation/hsv/prob": "0.1"})
    assert desk.execute(clone).code == 2
    assert "augmentation.hsv.prob (task parameter augmentation/hsv/prob)" in desk.server.task(clone)["status_message"]

    # Left alone, settings of a plugin that is not chosen any more are nobody's edit; and the way back adds its own.
    desk.server.edit(clone, {"augmentation/hsv/prob": "1.0", "experiment/name": "less", "training/max_steps": "1"})
    desk.server.edit(clone, {"export/format": "[]"})
    assert desk.execute(clone).code == 0
    assert "augmentation.hsv.prob" not in desk.record("runs/less")
    more = desk.server.clone(clone, "more")
    assert not any(name.startswith("augmentation/hsv") for name in desk.server.parameters(more))
    changed = {"augmentation/transforms": "hflip, hsv", "augmentation/hsv/prob": "0.1", "experiment/name": "more"}
    desk.server.edit(more, changed)
    assert desk.execute(more).code == 0
    assert desk.record("runs/more")["augmentation.hsv.prob"] == 0.1


def test_a_list_of_sources_takes_the_place_of_the_folder_that_the_run_was_started_with(desk: Desk) -> None:
    clone = desk.server.clone(desk.base, "two folders")
    listed = '["shapes", {"type": "local", "name": "more", "path": "other", "images": "pictures", "train": "one.json"}]'
    edits = {"data/sources": listed, "training/max_steps": "1", "experiment/name": "both", "export/format": "[]"}
    desk.server.edit(clone, edits)
    done = desk.execute(clone)
    assert done.code == 0, done.err
    assert desk.record("runs/both")["data.sources"] == [
        {"type": "local", "path": "shapes"},
        {"type": "local", "name": "more", "path": "other", "images": "pictures", "train": "one.json"},
    ]
    again = desk.server.clone(clone, "two folders again")
    desk.server.edit(again, {"experiment/name": "both again"})
    assert desk.execute(again).code == 0
    assert desk.record("runs/both-again")["data.sources"] == desk.record("runs/both")["data.sources"]
    wrong = desk.server.clone(desk.base, "wrong folders")
    desk.server.edit(wrong, {"data/sources": '[{"pth": "shapes"}, {"type": "s3", "downloads": "many"}]'})
    assert desk.execute(wrong).code == 2
    message = desk.server.task(wrong)["status_message"]
    for key in ("data.sources[0].pth", "data.sources[1].downloads"):
        assert f"  {key} (task parameter data/sources): " in message


def test_another_variant_brings_its_own_defaults_and_keeps_what_people_wrote(desk: Desk) -> None:
    clone = desk.server.clone(desk.base, "larger")
    edits = {"model/type": "yolox-s", "training/max_steps": "1", "experiment/name": "larger", "export/format": "[]"}
    desk.server.edit(clone, edits)
    done = desk.execute(clone)
    assert done.code == 0, done.err
    got = desk.record("runs/larger")
    alone = resolve(discover(), [mapping_layer({**RICH, "model.type": "yolox-s"})]).values()
    small = resolve(discover(), [mapping_layer({**RICH, "model.type": "yolox-nano"})]).values()
    derived = [key for key in alone if alone[key] != small[key] and key not in {"model.type", "training.resolution"}]
    assert derived and {key: got[key] for key in derived} == {key: alone[key] for key in derived}
    assert got["training.resolution"] == 64 and got["training.batch_size"] == 2


def test_a_task_without_its_baseline_says_what_to_clone(desk: Desk) -> None:
    clone = desk.server.clone(desk.base, "bare")
    desk.server.edit_configuration(clone, "detloom", "{}")
    assert desk.execute(clone).code == 1
    told = desk.server.task(clone)
    assert told["status"] == "failed" and "configuration object `detloom` was changed" in told["status_message"]


def test_a_key_that_the_task_holds_twice_is_refused_instead_of_one_being_ignored() -> None:
    def item(value: str) -> dict[str, str]:
        return {"value": value}

    values = {"training.lr": "0.1", "augmentation.hsv.h": "0.5", "data.allow": "[one]"}
    baseline = json.dumps({"format": 1, "values": values, "document": {}})
    hyperparams = {
        "training": {"lr": item("0.1")},
        "run": {"training.lr": item("0.2")},
        "augmentation": {"hsv/h": item("0.5"), "hsv.h": item("0.9")},
        "data": {"allow": item("[two]")},
    }
    reply = read_edits(hyperparams, {"detloom": item(baseline), "data/allow": item("[one]")})
    told = {mistake.key: (mistake.place, mistake.message) for mistake in reply.mistakes}
    assert told == {
        "training.lr": (
            "task parameter training/lr",
            "stands in the task twice, also as task parameter run/training.lr",
        ),
        "augmentation.hsv.h": (
            "task parameter augmentation/hsv/h",
            "stands in the task twice, also as task parameter augmentation/hsv.h",
        ),
        "data.allow": (
            "task parameter data/allow",
            "stands in the task twice, also as configuration object data/allow",
        ),
    }


def test_a_parameter_below_a_mapping_comes_after_the_mapping_as_a_whole() -> None:
    def item(value: str) -> dict[str, str]:
        return {"value": value}

    base = resolve(discover(), [mapping_layer({**RICH, "data.class_aliases": {"a": "cat", "b": "dog"}})])
    texts = {"data.class_aliases": base.texts()["data.class_aliases"]}
    baseline = item(json.dumps({"format": 1, "values": texts, "document": base.to_dict()}))

    def aliases(whole: str, parameters: dict[str, str]) -> dict[str, str]:
        hyperparams = {"data": {name: item(text) for name, text in parameters.items()}}
        reply = read_edits(hyperparams, {"data/class_aliases": item(whole), "detloom": baseline})
        assert reply.document is not None
        run = load_saved(reply.document, discover()).with_edits(reply.edits, reply.mistakes)
        assert run.origins["data.class_aliases"].kind == "tracker"
        return run.config.data.class_aliases

    kept = texts["data.class_aliases"]
    assert aliases(kept, {"class_aliases/q2": "cat"}) == {"a": "cat", "b": "dog", "q2": "cat"}
    assert aliases(kept, {"class_aliases/b": "cow", "class_aliases/St. B": "x"}) == {
        "a": "cat",
        "b": "cow",
        "St. B": "x",
    }
    assert aliases("{zz: a.b}", {"class_aliases/qq": "hen"}) == {"zz": "a.b", "qq": "hen"}
    assert aliases("none", {}) == {}
    with pytest.raises(ConfigError, match=r"class_aliases\.q \(task parameter data/class_aliases/q\): found .*'q': ''"):
        aliases(kept, {"class_aliases/q": ""})


def test_a_new_mapping_of_a_plugin_that_an_edit_chose_is_read_before_the_keys_below_it() -> None:
    baseline = {"value": json.dumps({"format": 1, "values": {}, "document": {}})}
    section = {"plugins/x/table/a": {"value": "1"}, "plugins/x/table": {"value": "{b: 2}"}}
    reply = read_edits({"augmentation": section}, {"detloom": baseline})
    assert [key for key, _, _ in reply.edits] == ["augmentation.plugins.x.table", "augmentation.plugins.x.table.a"]

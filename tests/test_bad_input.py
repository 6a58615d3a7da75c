"""What goes wrong for users, through the command line: the exit code, one sentence that says what, where and what to
do, no traceback, and nothing half-written."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

import data_tools
from detloom.host import discover
from detloom.model import build_detector
from detloom.specs import ModelSpec
from processes import Finished, Place, ended, wait_for_step
from run_tools import metrics_of, tensors_digest

SMALL = (
    *("--resolution", "64", "--set", "training.batch_size=4", "--set", "data.num_workers=0"),
    *("--set", "export.format=[]", "--set", "validation.pictures=0", "--set", "experiment.logging.loggers=jsonl"),
    *("--set", "experiment.logging.log_interval=1", "--no-clearml"),
)
RANDOM = (*SMALL, "--weights", "none")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sound data set, and one folder for each way of being unsound."""
    root = tmp_path_factory.mktemp("material")
    for name in ("sound", "unknown-class", "truncated"):
        data_tools.sound_data(root / name, images=8)
    data_tools.edit(root / "unknown-class", lambda content: content["annotations"][0].update(category_id=99))
    picture = root / "truncated" / "train" / "p3.png"
    picture.write_bytes(picture.read_bytes()[:200])
    (root / "empty").mkdir()
    for name, text in (("not-coco", '{"colours": ["red"]}'), ("no-json", "{]"), ("list", "[1, 2]")):
        (root / name).mkdir()
        (root / name / "labels.json").write_text(text)
    (root / "weights").mkdir()
    (root / "weights" / "text.pth").write_text("these are not the weights")
    (root / "weights" / "page.pth").write_text("<!DOCTYPE html><html><body>404</body></html>")
    (root / "weights" / "numbers.pth").write_bytes(b"")
    torch.manual_seed(0)
    spec = discover().get(ModelSpec, "yolox-nano")
    nano = build_detector(spec, spec.settings(), tuple(f"c{n}" for n in range(80)), (64, 64))
    torch.save(nano.state_dict(), root / "weights" / "nano.pth")
    whole = (root / "weights" / "nano.pth").read_bytes()
    (root / "weights" / "cut.pth").write_bytes(whole[: len(whole) // 2])
    return root


@pytest.fixture
def place(tmp_path: Path, cache: Path, material: Path) -> Place:
    """An empty folder with the material beside it."""
    (tmp_path / "here").mkdir()
    (tmp_path / "m").symlink_to(material)
    return Place(tmp_path / "here", cache)


# ---- refused before anything is written ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """words: all of them stand in what the user reads."""

    name: str
    arguments: tuple[str, ...]
    code: int
    words: tuple[str, ...]


def train(*arguments: str) -> tuple[str, ...]:
    return ("train", *arguments)


CASES = [
    Case("a missing folder", train("../m/nowhere", *RANDOM), 3, ("nowhere does not exist", "train/ valid/ test/")),
    Case("an empty folder", train("../m/empty", *RANDOM), 3, ("empty is an empty folder", "train/ valid/ test/")),
    Case("a device", ("check", "/dev/null"), 3, ("/dev/null is neither a folder nor a file", "a device or a pipe")),
    Case("a device of labels", ("check", "../m/sound", "--train", "/dev/null"), 3, ("/dev/null is neither a folder",)),
    Case("json that is not COCO", train("../m/not-coco", *RANDOM), 3, ("labels.json", "not a COCO", "colours")),
    Case("a file that is not json", train("../m/no-json", *RANDOM), 3, ("labels.json", "json-syntax")),
    Case("a json list", train("../m/list/labels.json", *RANDOM), 3, ("labels.json", "not-coco")),
    Case(
        "an unknown class id",
        train("../m/unknown-class", *RANDOM),
        3,
        ("annotation id 101 (class 99)", "_annotations.coco.json", "data.allow='[unknown-class]'"),
    ),
    Case("a truncated image", train("../m/truncated", *RANDOM), 3, ("p3.png", "ends too early", "truncated-image")),
    Case("no data", train(*RANDOM), 2, ("no data were named", "detloom train DATA")),
    Case("an unknown key", train("../m/sound", "--set", "training.batchsize=4"), 2, ("--set", "training.batch_size?")),
    Case("another's key", train("../m/sound", "--set", "training.learning_rate=1"), 2, ("did you mean training.lr?",)),
    Case("a wrong type", train("../m/sound", "--epochs", "many"), 2, ("training.epochs", "'many'", "whole number")),
    Case("an unknown flag", train("../m/sound", "--epoch", "3"), 2, ("--epoch", "did you mean --epochs?")),
    Case(
        "several mistakes",
        train("../m/sound", "--epochs", "0", "--set", "trainig.lr=1", "--model", "yolox-nan", "--resolution", "100"),
        2,
        ("3 mistakes", "training.epochs (--epochs)", "training.lr?", "did you mean yolox-nano"),
    ),
    Case(
        "an unknown model", train("../m/sound", "--model", "yolox-nan"), 2, ("'yolox-nan'", "did you mean yolox-nano")
    ),
    Case(
        "a blocked plugin",
        train("../m/sound", *RANDOM, "--block-plugin", "models.*"),
        4,
        ("no model named 'yolox-nano'", "models.yolox is blocked"),
    ),
    Case("no format", train("../m/sound", *RANDOM, "--block-plugin=formats.*"), 4, ("formats.coco is blocked",)),
    Case("a size", train("../m/sound", "--resolution", "100"), 2, ("training.resolution", "multiples of 32", "96")),
    Case(
        "another number of classes",
        train("../m/sound", *RANDOM, "--set", "model.num_classes=5"),
        2,
        ("model.num_classes (--set)", "found 5, but the data say 2", "leave it out"),
    ),
    Case(
        "a device that is not here",
        train("../m/sound", *RANDOM, "--device", "cuda:99"),
        2,
        ("training.device (--device)", "'cuda:99' is not here", "found: cpu"),
    ),
    Case("a folder in /proc", train("../m/sound", *RANDOM, "--output-dir", "/proc/runs"), 2, ("/proc", "--output-dir")),
    Case("a file in the way", train("../m/sound", *RANDOM, "--output-dir", __file__), 2, ("is a file, not a folder",)),
    Case("text as weights", train("../m/sound", *SMALL, "--weights", "../m/weights/text.pth"), 1, ("text.pth", ".pth")),
    Case(
        "a web page as weights",
        train("../m/sound", *SMALL, "--weights", "../m/weights/page.pth"),
        1,
        ("page.pth is a web page", "download the file itself"),
    ),
    Case(
        "half a weights file",
        train("../m/sound", *SMALL, "--weights", "../m/weights/cut.pth"),
        1,
        ("cut.pth is damaged, cut off", "copy it again"),
    ),
    Case(
        "weights of another variant",
        train("../m/sound", *SMALL, "--model", "yolox-tiny", "--weights", "../m/weights/nano.pth"),
        1,
        ("nano.pth does not hold weights of yolox-tiny", "[16, 12, 3, 3], not [24, 12, 3, 3]", "--model"),
    ),
    Case(
        "weights that are not there",
        train("../m/sound", *SMALL, "--weights", "nothing.pth"),
        2,
        ("model.pretrain_weights (--weights)", "there is no file nothing.pth"),
    ),
    Case(
        "official weights without a network",
        train("../m/sound", *SMALL, "--weights", "official"),
        5,
        ("yolox_nano.pth cannot be downloaded", "--weights FILE"),
    ),
    Case("nothing to resume", train("--resume"), 2, ("runs holds no unfinished run", "--resume RUN")),
    Case("no such run", train("--resume", "runs/gone"), 2, ("runs/gone is not a run's folder",)),
    Case("a config file that is not there", train("../m/sound", "--config", "no.yaml"), 2, ("no.yaml", "no such file")),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name.replace(" ", "-"))
def test_it_is_refused_in_a_sentence_and_nothing_is_written(case: Case, place: Place) -> None:
    finished = place.call(*case.arguments)
    assert finished.code == case.code, finished
    for words in case.words:
        assert words in finished.err, finished.err
    assert_civil(finished)
    assert place.files() == {} and list(place.folder.iterdir()) == []


@pytest.mark.parametrize(
    "command",
    [
        ("convert", "data", "data/out", "--to", "yolo"),
        ("convert", "data", "linked/below/out", "--to", "coco"),
        ("check", "data", "--fix", "data/train/out"),
        ("split", "data", "--anew", "--out", "data/out"),
    ],
    ids=" ".join,
)
def test_nothing_is_written_into_the_data_that_are_read(command: tuple[str, ...], place: Place) -> None:
    data = data_tools.sound_data(place.folder / "data")
    (place.folder / "linked").symlink_to(data)
    before = sorted(place.folder.rglob("*"))
    finished = place.call(*command)
    assert finished.code == 2 and "lies inside of data" in finished.err, finished.err
    assert "a new folder beside the data" in finished.err
    assert sorted(place.folder.rglob("*")) == before


def test_a_folder_around_the_data_is_no_place_for_a_copy(place: Place) -> None:
    data_tools.sound_data(place.folder / "around" / "data")
    finished = place.call("convert", "around/data", "around", "--to", "yolo")
    assert finished.code == 2 and "around exists" in finished.err


def test_a_pipe_is_not_waited_for(place: Place) -> None:
    os.mkfifo(place.folder / "pipe")
    finished = place.call("check", "pipe")
    assert finished.code == 3 and "pipe is neither a folder nor a file" in finished.err
    assert_civil(finished)


def assert_civil(finished: Finished) -> None:
    """No traceback, no excuse, no screenful."""
    assert "Traceback" not in finished.err + finished.out
    assert "should not happen" not in finished.err
    assert finished.err.startswith(("error: ", "warning: "))
    assert len(finished.err.splitlines()) < 20


def test_mistakes_of_a_file_are_shown_in_their_lines(place: Place) -> None:
    (place.folder / "run.yaml").write_text("training:\n  epochs: many\n  batchsize: 4\ndata:\n  num_wrkers: 2\n")
    finished = place.run("train", "../m/sound", "--config", "run.yaml")
    assert finished.code == 2
    for words in ("3 mistakes", "run.yaml:2:3", "run.yaml:3:3", "run.yaml:5:3", "did you mean data.num_workers?"):
        assert words in finished.err
    assert_civil(finished)
    assert set(place.files()) == {"run.yaml"}


def test_weights_of_another_family_are_refused(place: Place, data_dir: Path) -> None:
    weights = data_dir / "weights" / "fastestdet_coco_ap05_0.2532.pth"
    finished = place.call("train", "../m/sound", *SMALL, "--weights", weights)
    assert finished.code == 1
    assert "does not hold weights of yolox-nano" in finished.err and "--model" in finished.err
    assert_civil(finished)
    assert place.files() == {}


def test_a_code_that_nothing_has_is_refused_before_the_data_are_read(place: Place) -> None:
    finished = place.call("train", "../m/truncated", *RANDOM, "--set", "data.allow=truncated-imag")
    assert finished.code == 2
    assert "data.allow" in finished.err and "did you mean truncated-image?" in finished.err
    assert_civil(finished)


# ---- the disk -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [20_000, 2_000_000], ids=["for-a-picture", "for-a-checkpoint"])
def test_a_full_disk_is_named_and_nothing_half_written_stays(limit: int, place: Place) -> None:
    """A limit on the size of a file stands in for a full disk: the same calls fail at the same places."""

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    finished = place.run("train", "../m/sound", *RANDOM, "--epochs", "1", "--name", "full", before=limited)
    assert finished.code == 1
    assert "cannot write" in finished.err and "best.pt" in finished.err and "free space" in finished.err
    assert "Traceback" not in finished.err and "should not happen" not in finished.err
    record = json.loads((place.folder / "runs/full/run.json").read_text())
    assert record["status"] == "failed" and "best.pt" in record["error"]
    assert not any("checkpoints" in name or name.endswith(".part") for name in place.files())


# ---- stopped, killed, resumed -------------------------------------------------------------------------------------

EPOCHS = ("--epochs", "5")


def state_of(run: Path) -> dict[str, Any]:
    """All that a run computed: weights, averaged weights, optimizer, best, numbers; no clocks."""
    last = torch.load(run / "checkpoints" / "last.pt", weights_only=True)
    best = torch.load(run / "checkpoints" / "best.pt", weights_only=True)
    training = last["training"]
    moments = {
        f"{row}.{name}": value for row, part in training["optimizer"]["state"].items() for name, value in part.items()
    }
    return {
        "last": tensors_digest(last["weights"]),
        "best": tensors_digest(best["weights"]),
        "model": tensors_digest(training["model"]),
        "average": tensors_digest(training["ema"]["shadow"]),
        "optimizer": tensors_digest(moments),
        "judged": training["best"],
        "where": {name: training["progress"][name] for name in ("epoch", "batch", "step", "finished")},
        "metrics": metrics_of(run),
        "evaluation": json.loads((run / "evaluation.json").read_text()),
    }


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, cache: Path, material: Path) -> dict[str, Any]:
    """A run that nobody disturbed."""
    place = Place(tmp_path_factory.mktemp("whole"), cache)
    finished = place.run("train", material / "sound", *RANDOM, *EPOCHS, "--name", "run")
    assert finished.code == 0, finished
    return state_of(place.folder / "runs/run")


@pytest.fixture
def killed(place: Place) -> Iterator[Callable[[signal.Signals, int], Finished]]:
    """Starts a run, lets it come to a step, and sends it a signal."""
    started: list[subprocess.Popen[str]] = []

    def begin(number: signal.Signals, step: int) -> Finished:
        process = place.start("train", "../m/sound", *RANDOM, *EPOCHS, "--name", "run")
        started.append(process)
        wait_for_step(place.folder / "runs/run", step, process)
        process.send_signal(number)
        return ended(process)

    yield begin
    for process in started:
        if process.poll() is None:
            process.kill()


def test_ctrl_c_saves_and_a_resumed_run_equals_one_that_was_not_stopped(
    place: Place, whole: dict[str, Any], killed: Callable[[signal.Signals, int], Finished]
) -> None:
    finished = killed(signal.SIGINT, 3)
    assert finished.code == 130, finished
    assert "detloom train --resume runs/run" in finished.err and "Traceback" not in finished.err
    run = place.folder / "runs/run"
    assert json.loads((run / "run.json").read_text())["status"] == "interrupted"
    assert (run / "report.html").is_file()
    resumed = place.run("train", "--resume", "runs/run")
    assert resumed.code == 0, resumed
    assert state_of(run) == whole
    assert json.loads((run / "run.json").read_text())["status"] == "completed"


def test_a_killed_run_is_found_and_finished_as_if_nothing_had_happened(
    place: Place, whole: dict[str, Any], killed: Callable[[signal.Signals, int], Finished]
) -> None:
    finished = killed(signal.SIGKILL, 5)
    assert finished.code == -signal.SIGKILL
    run = place.folder / "runs/run"
    assert json.loads((run / "run.json").read_text())["status"] == "running"
    resumed = place.run("train", "--resume")
    assert resumed.code == 0, resumed
    assert state_of(run) == whole
    assert [path.name for path in run.rglob("*.part")] == []


def test_worker_processes_change_nothing(place: Place, whole: dict[str, Any]) -> None:
    with_workers = [argument.replace("num_workers=0", "num_workers=2") for argument in RANDOM]
    finished = place.run("train", "../m/sound", *with_workers, *EPOCHS, "--name", "run")
    assert finished.code == 0, finished
    assert state_of(place.folder / "runs/run") == whole


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory, cache: Path, material: Path) -> Path:
    """A folder with a data set and a run of it that could go on."""
    folder = tmp_path_factory.mktemp("stopped")
    shutil.copytree(material / "sound", folder / "data")
    place = Place(folder, cache)
    assert place.run("train", "data", *RANDOM, "--epochs", "2", "--name", "run").code == 0
    return folder


@pytest.fixture
def unfinished(stopped: Path, tmp_path: Path, cache: Path) -> Place:
    """A copy of it, to be spoiled."""
    shutil.copytree(stopped, tmp_path / "copy")
    return Place(tmp_path / "copy", cache)


def refused_resume(place: Place, *more: str, code: int = 1) -> str:
    """The message of a resume that must fail and leave every file as it was."""
    before = place.files()
    finished = place.call("train", "--resume", "runs/run", "--epochs", "4", *more)
    assert finished.code == code, finished
    assert_civil(finished)
    after = place.files()
    assert after.pop("runs/run/log.txt").startswith(before.pop("runs/run/log.txt"))
    assert after == before
    return finished.err


def test_a_run_does_not_go_on_with_other_data(unfinished: Place) -> None:
    data_tools.edit(unfinished.folder / "data", lambda content: content["annotations"][0].update(bbox=[1, 1, 9, 9]))
    message = refused_resume(unfinished)
    assert "the data have changed" in message and "--weights" in message


def test_a_damaged_checkpoint_falls_back_to_the_one_before_it(unfinished: Place) -> None:
    last = unfinished.folder / "runs/run/checkpoints/last.pt"
    last.write_bytes(last.read_bytes()[:5000])
    leftovers = [last.with_name(".last.pt.x1y2.part"), unfinished.folder / "runs/run/exports/.export-x1/half.onnx"]
    for path in leftovers:
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_text("of a process that was killed while it wrote")
    finished = unfinished.call("train", "--resume", "runs/run", "--epochs", "3")
    assert finished.code == 0, finished
    assert "last.pt does not match its hash" in finished.err and "trying the one before it" in finished.err
    steps = [row["step"] for row in metrics_of(unfinished.folder / "runs/run")]
    assert max(steps) == 6 and sorted(steps) == steps
    assert not any(path.exists() for path in leftovers)


def test_without_any_whole_checkpoint_there_is_nothing_to_resume(unfinished: Place) -> None:
    for name in ("last.pt", "previous.pt"):
        path = unfinished.folder / "runs/run/checkpoints" / name
        path.write_bytes(path.read_bytes()[:5000])
    message = refused_resume(unfinished)
    assert "last.pt does not match" in message and "previous.pt does not match" in message
    assert "start the run anew" in message


def test_a_resumed_run_stays_with_its_model(unfinished: Place) -> None:
    message = refused_resume(unfinished, "--model", "yolox-tiny", "--resolution", "96", code=2)
    assert "model.type (--model): 'yolox-tiny' would make it another run; it was 'yolox-nano'" in message
    assert "training.resolution (--resolution): 96 would make it another run" in message


def test_a_resumed_run_stays_with_its_classes(unfinished: Place) -> None:
    """The digest does not cover ids, and the order of the class rows comes from them."""
    ids = {20: 7, 7: 20}

    def renumber(content: dict[str, Any]) -> None:
        for row in content["categories"]:
            row["id"] = ids.get(row["id"], row["id"])
        for row in content["annotations"]:
            row["category_id"] = ids.get(row["category_id"], row["category_id"])

    for path in (unfinished.folder / "data").rglob("_annotations.coco.json"):
        content = json.loads(path.read_text())
        renumber(content)
        path.write_text(json.dumps(content))
    assert "the classes have other ids or another order now" in refused_resume(unfinished)


def test_a_run_that_is_being_trained_is_not_taken_over(unfinished: Place) -> None:
    import fcntl

    folder = unfinished.folder / "runs/run"
    with (folder / ".lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert "is being trained by another process" in refused_resume(unfinished, code=2)
        finished = unfinished.call("train", "--resume")
        assert finished.code == 2 and "holds no unfinished run" in finished.err


def test_a_rate_given_with_a_resume_acts(unfinished: Place) -> None:
    finished = unfinished.call(
        "train", "--resume", "runs/run", "--epochs", "3", "--lr", "1e-9", "--set", "training.scheduler=constant"
    )
    assert finished.code == 0, finished
    assert metrics_of(unfinished.folder / "runs/run")[-2]["train/lr"] == pytest.approx(1e-9)


def test_a_resumed_run_stays_with_its_optimizer(unfinished: Place) -> None:
    changed = refused_resume(unfinished, "--set", "training.optimizer=sgd", code=2)
    assert "training.optimizer (--set): 'sgd' would make it another run" in changed
    assert "does not fit this configuration" in refused_resume(unfinished, "--set", "training.use_llrd=true")

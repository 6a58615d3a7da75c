"""A logger that is also a tracker. Its server is a folder, named by ORCHARD_SERVER when an agent starts the process:
`edits.json` changes the configuration, `last.pt` is a state to go on from, `stop` asks the run to stop."""

import json
import os
import shutil
from pathlib import Path

import detloom


def settings():
    from typing import Annotated

    from pydantic import Field

    class DiarySettings(detloom.Settings):
        """The diary."""

        file: Annotated[str, Field(min_length=1, description="name of the file in the run's folder")] = "diary.csv"

    return DiarySettings()


class Diary:
    def __init__(self, settings, context):
        self.file = (context.run_dir / settings.file).open("a", encoding="utf-8")

    def note(self, *words):
        print(*words, sep=",", file=self.file, flush=True)

    def scalars(self, values, step, epoch):
        for name, value in values.items():
            self.note("scalar", step, epoch, name, value)

    def plot(self, name, series, step):
        self.note("plot", step, name, *series)

    def image(self, name, path, step):
        self.note("image", step, name, path.is_file())

    def table(self, name, header, rows, step):
        self.note("table", step, name, *header)

    def artifact(self, name, path):
        self.note("artifact", name, path.is_file())

    def model(self, name, path, metrics, labels):
        self.note("model", name, path.is_file(), *labels)

    def close(self, status):
        self.note("close", status)
        self.file.close()


class Server:
    def __init__(self):
        self.folder = Path(os.environ["ORCHARD_SERVER"]) if "ORCHARD_SERVER" in os.environ else None

    def connect(self, config):
        if self.folder is None:
            return detloom.TrackerReply()
        (self.folder / "seen.json").write_text(json.dumps({"values": config.values, "origins": config.origins}))
        edits = json.loads((self.folder / "edits.json").read_text())
        return detloom.TrackerReply(tuple((key, text, "edits.json") for key, text in edits.items()))

    def confirm(self, config, settings):
        if self.folder is not None:
            (self.folder / "effective.json").write_text(json.dumps(config.values))

    def identity(self):
        return {"folder": str(self.folder)}

    def keep_checkpoint(self, kind, path, epoch, step):
        if self.folder is not None:
            (self.folder / "kept.txt").open("a").write(f"{kind} {step}\n")

    def restore_checkpoint(self, kind, dest):
        if self.folder is None or not (self.folder / f"{kind}.pt").is_file():
            return None
        return Path(shutil.copy(self.folder / f"{kind}.pt", dest))

    def stop_requested(self):
        return self.folder is not None and (self.folder / "stop").exists()

    def close(self, status, error):
        if self.folder is not None:
            (self.folder / "closed.txt").open("a").write(f"{status}: {error}\n")


@detloom.hookimpl
def detloom_loggers():
    yield detloom.LoggerSpec(
        name="diary",
        summary="one file of everything",
        settings=settings,
        build=Diary,
        tracker=lambda settings: Server(),
        claims=lambda environ: "ORCHARD_SERVER" in environ,
    )

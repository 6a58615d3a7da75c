"""Observers: one line an event in `events.txt` of the run's folder."""

import detloom


def note(event, *words):
    with (event.run_dir / "events.txt").open("a", encoding="utf-8") as file:
        print(type(event).__name__, *words, file=file)


@detloom.hookimpl
def detloom_run_started(event):
    note(event, *event.classes)


@detloom.hookimpl
def detloom_epoch_started(event):
    note(event, event.epoch, event.step)


@detloom.hookimpl
def detloom_validation_finished(event):
    note(event, event.epoch, event.step, "val/AP" in event.metrics)


@detloom.hookimpl
def detloom_epoch_finished(event):
    note(event, event.epoch, event.step, "val/AP" in event.metrics)


@detloom.hookimpl
def detloom_checkpoint_saved(event):
    note(event, event.path.name, event.path.is_file())


@detloom.hookimpl
def detloom_run_finished(event):
    note(event, event.status)

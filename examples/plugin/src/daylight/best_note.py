"""An observer: keeps one line in `best.txt` of the run's folder, the epoch with the highest AP so far."""

import detloom


@detloom.hookimpl
def detloom_epoch_finished(event):
    note = event.run_dir / "best.txt"
    best = float(note.read_text().split()[-1]) if note.exists() else -1.0
    if event.metrics.get("val/AP", -1.0) > best:
        note.write_text(f"epoch {event.epoch}: AP {event.metrics['val/AP']}\n")

"""TensorBoard's event files, written with TensorBoard's own record writer: neither TensorFlow nor torch is needed."""
# ruff: noqa: TID253
# pyright: reportAttributeAccessIssue=false
# Modules generated from protocol buffers make their names when they are imported.

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboard.compat.proto.types_pb2 import DT_STRING
from tensorboard.summary.writer.record_writer import RecordWriter

if TYPE_CHECKING:
    from detloom.specs import LoggerContext

FOLDER = "tensorboard"
FLUSH_S = 5.0


class TensorBoardLogger:
    """Scalars, pictures, curves (as pictures) and tables (as text) below `tensorboard/` in the run's folder."""

    def __init__(self, context: LoggerContext) -> None:
        folder = context.run_dir / FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        # Each start writes a file of its own; TensorBoard joins them in the order of their names.
        number = 1 + sum(1 for _ in folder.glob("events.out.tfevents.*"))
        self._file = (folder / f"events.out.tfevents.{int(time.time())}.{number:04}").open("xb")
        self._records = RecordWriter(self._file)
        self._flushed = time.monotonic()
        self._write(Event(file_version="brain.Event:2"))
        if context.resume_step:
            # TensorBoard drops what an earlier part of the run recorded from this step on.
            self._write(Event(step=context.resume_step + 1, session_log=SessionLog(status=SessionLog.START)))

    def scalars(self, values: Mapping[str, float], step: int, epoch: int) -> None:
        rows = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        self._write(Event(step=step, summary=Summary(value=rows)))

    def plot(self, name: str, series: Mapping[str, Sequence[tuple[float, float]]], step: int) -> None:
        from detloom.drawing import line_chart

        self._picture(name, line_chart(series, title=name), step)

    def image(self, name: str, path: Path, step: int) -> None:
        from detloom.data.images import read_image

        self._picture(name, read_image(path), step)

    def _picture(self, name: str, pixels: NDArray[np.uint8], step: int) -> None:
        """pixels: uint8 RGB [H, W, 3]."""
        from detloom.drawing import encode_jpeg

        image = Summary.Image(
            height=pixels.shape[0], width=pixels.shape[1], colorspace=3, encoded_image_string=encode_jpeg(pixels)
        )
        self._write(Event(step=step, summary=Summary(value=[Summary.Value(tag=name, image=image)])))

    def table(self, name: str, header: Sequence[str], rows: Sequence[Sequence[object]], step: int) -> None:
        lines = [_row(header), _row(["---"] * len(header)), *map(_row, rows)]
        self._text(name, "\n".join(lines), step)

    def artifact(self, name: str, path: Path) -> None:
        self._text(f"artifacts/{name}", str(path), 0)

    def model(self, name: str, path: Path, metrics: Mapping[str, float], labels: Mapping[str, int]) -> None:
        rows = [("file", path), *metrics.items(), ("classes", ", ".join(labels))]
        self.table(f"models/{name}", ("", ""), rows, 0)

    def _text(self, name: str, markdown: str, step: int) -> None:
        value = Summary.Value(
            tag=f"{name}/text_summary",
            metadata=SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="text")),
            tensor=TensorProto(
                dtype=DT_STRING,
                string_val=[markdown.encode()],
                tensor_shape=TensorShapeProto(dim=[TensorShapeProto.Dim(size=1)]),
            ),
        )
        self._write(Event(step=step, summary=Summary(value=[value])))

    def _write(self, event: Any) -> None:
        event.wall_time = time.time()
        self._records.write(event.SerializeToString())
        now = time.monotonic()
        if now - self._flushed > FLUSH_S:
            self._flushed = now
            self._file.flush()

    def close(self, status: str) -> None:
        self._text("status", status, 0)
        self._records.close()


def _row(cells: Sequence[object]) -> str:
    """One line of a markdown table; a bar inside a cell would end it."""
    shown = (f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in cells)
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in shown) + " |"

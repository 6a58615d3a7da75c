"""Deployable files and the proof that they equal their checkpoint. Heavy: import it inside functions."""

from __future__ import annotations

from detloom.export.exporting import Evidence, ExportResult, export_model

__all__ = ["Evidence", "ExportResult", "export_model"]

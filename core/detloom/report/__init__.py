"""report.html: one self-contained file about a run."""

from __future__ import annotations

from detloom.report.data import ConfigRow, ReportData, load_report_data
from detloom.report.render import write_report

__all__ = ["ConfigRow", "ReportData", "load_report_data", "write_report"]

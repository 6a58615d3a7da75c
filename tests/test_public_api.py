"""What `import detloom` promises."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import detloom

ROOT = Path(__file__).resolve().parent.parent

PUBLIC = [
    "API_VERSION",
    "AugmentationSpec",
    "CIoULoss",
    "CheckpointError",
    "CheckpointSaved",
    "ClassMap",
    "ClassRecord",
    "CommandSpec",
    "ConfigError",
    "DFLoss",
    "DataError",
    "DataTree",
    "Dataset",
    "Decoded",
    "Detections",
    "Detector",
    "DetloomError",
    "EpochFinished",
    "EpochStarted",
    "ExportError",
    "ExportRequest",
    "ExporterSpec",
    "FetchContext",
    "Finding",
    "FocalLoss",
    "FormatSpec",
    "ImageInfo",
    "ImageRecord",
    "InputRule",
    "LayerGroup",
    "LoggerContext",
    "LoggerSpec",
    "LossSpec",
    "LossTerms",
    "MatchabilityLoss",
    "ModelContext",
    "ModelSpec",
    "ObjectRecord",
    "Outputs",
    "Package",
    "PluginError",
    "PluginHost",
    "PluginInfo",
    "PostRule",
    "Predictor",
    "ResolvedConfig",
    "RunFinished",
    "RunInterrupted",
    "RunStarted",
    "Runtime",
    "RuntimeRequest",
    "RuntimeSpec",
    "Sample",
    "Settings",
    "Sniff",
    "SourcePlan",
    "SourceSpec",
    "Split",
    "Submission",
    "Targets",
    "TrackedConfig",
    "Tracker",
    "TrackerReply",
    "TrainedModel",
    "TransferReport",
    "UnreachableError",
    "UsageError",
    "ValidationFinished",
    "VarifocalLoss",
    "WeightsError",
    "WeightsFile",
    "__version__",
    "atomic_path",
    "compute_iou",
    "create_model",
    "deploy_graph",
    "discover",
    "file_layer",
    "hookimpl",
    "load_dataset",
    "load_model",
    "load_saved",
    "mapping_layer",
    "open_predictor",
    "resolve",
    "train_run",
]


def test_the_public_names_are_these_and_no_others() -> None:
    """A change here is a change of the contract: it belongs into the changelog."""
    assert sorted(detloom.__all__) == PUBLIC
    assert dir(detloom) == detloom.__all__


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(detloom, name) is getattr(detloom, name)


def test_another_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Trainer'"):
        _ = detloom.Trainer  # type: ignore[attr-defined]


def test_the_version_is_that_of_the_distribution() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert detloom.__version__ == project["version"]


def test_importing_detloom_imports_nothing_but_the_standard_library() -> None:
    code = (
        "import sys; before = set(sys.modules); import detloom; "
        "print(*sorted({name.partition('.')[0] for name in set(sys.modules) - before} - sys.stdlib_module_names))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT / "core")
    assert done.stdout.split() == ["detloom"]

"""Detloom: fine-tune object detectors, with runs that can be edited remotely, resumed exactly, extended by
`pip install`, and exported with proof.

What is named here is the public API; everything else may move. Names are imported when they are first used, so that
`import detloom` is light: a plugin's front may import it freely.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "detloom.boxes": ("compute_iou",),
    "detloom.config": ("ResolvedConfig", "file_layer", "load_saved", "mapping_layer", "resolve"),
    "detloom.data.dataset": ("ClassMap", "Dataset", "ImageInfo", "Split"),
    "detloom.data.load": ("load_dataset",),
    "detloom.data.records": (
        "ClassRecord",
        "DataTree",
        "Finding",
        "ImageRecord",
        "ObjectRecord",
        "Sniff",
        "SourcePlan",
    ),
    "detloom.deploy": ("deploy_graph",),
    "detloom.detector": ("Decoded", "Detector", "LayerGroup", "LossTerms", "Outputs", "Targets", "TransferReport"),
    "detloom.errors": (
        "CheckpointError",
        "ConfigError",
        "DataError",
        "DetloomError",
        "ExportError",
        "PluginError",
        "RunInterrupted",
        "UnreachableError",
        "UsageError",
        "WeightsError",
    ),
    "detloom.events": (
        "CheckpointSaved",
        "EpochFinished",
        "EpochStarted",
        "RunFinished",
        "RunStarted",
        "ValidationFinished",
    ),
    "detloom.files": ("atomic_path",),
    "detloom.geometry": ("Detections", "InputRule", "PostRule"),
    "detloom.hookspecs": ("hookimpl",),
    "detloom.host": ("PluginHost", "PluginInfo", "discover"),
    "detloom.losses": ("CIoULoss", "DFLoss", "FocalLoss", "MatchabilityLoss", "VarifocalLoss"),
    "detloom.model": ("TrainedModel", "load_model"),
    "detloom.prediction": ("Predictor", "Runtime", "open_predictor"),
    "detloom.run": ("train_run",),
    "detloom.sample": ("Sample",),
    "detloom.train.assemble": ("create_model",),
    "detloom.specs": (
        "API_VERSION",
        "AugmentationSpec",
        "CommandSpec",
        "ExportRequest",
        "ExporterSpec",
        "FetchContext",
        "FormatSpec",
        "LoggerContext",
        "LoggerSpec",
        "LossSpec",
        "ModelContext",
        "ModelSpec",
        "Package",
        "RuntimeRequest",
        "RuntimeSpec",
        "SourceSpec",
        "Submission",
        "TrackedConfig",
        "Tracker",
        "TrackerReply",
        "WeightsFile",
    ),
    "detloom_schemas": ("Settings",),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

if TYPE_CHECKING:
    from detloom.boxes import compute_iou as compute_iou
    from detloom.config import ResolvedConfig as ResolvedConfig
    from detloom.config import file_layer as file_layer
    from detloom.config import load_saved as load_saved
    from detloom.config import mapping_layer as mapping_layer
    from detloom.config import resolve as resolve
    from detloom.data.dataset import ClassMap as ClassMap
    from detloom.data.dataset import Dataset as Dataset
    from detloom.data.dataset import ImageInfo as ImageInfo
    from detloom.data.dataset import Split as Split
    from detloom.data.load import load_dataset as load_dataset
    from detloom.data.records import ClassRecord as ClassRecord
    from detloom.data.records import DataTree as DataTree
    from detloom.data.records import Finding as Finding
    from detloom.data.records import ImageRecord as ImageRecord
    from detloom.data.records import ObjectRecord as ObjectRecord
    from detloom.data.records import Sniff as Sniff
    from detloom.data.records import SourcePlan as SourcePlan
    from detloom.deploy import deploy_graph as deploy_graph
    from detloom.detector import Decoded as Decoded
    from detloom.detector import Detector as Detector
    from detloom.detector import LayerGroup as LayerGroup
    from detloom.detector import LossTerms as LossTerms
    from detloom.detector import Outputs as Outputs
    from detloom.detector import Targets as Targets
    from detloom.detector import TransferReport as TransferReport
    from detloom.errors import CheckpointError as CheckpointError
    from detloom.errors import ConfigError as ConfigError
    from detloom.errors import DataError as DataError
    from detloom.errors import DetloomError as DetloomError
    from detloom.errors import ExportError as ExportError
    from detloom.errors import PluginError as PluginError
    from detloom.errors import RunInterrupted as RunInterrupted
    from detloom.errors import UnreachableError as UnreachableError
    from detloom.errors import UsageError as UsageError
    from detloom.errors import WeightsError as WeightsError
    from detloom.events import CheckpointSaved as CheckpointSaved
    from detloom.events import EpochFinished as EpochFinished
    from detloom.events import EpochStarted as EpochStarted
    from detloom.events import RunFinished as RunFinished
    from detloom.events import RunStarted as RunStarted
    from detloom.events import ValidationFinished as ValidationFinished
    from detloom.files import atomic_path as atomic_path
    from detloom.geometry import Detections as Detections
    from detloom.geometry import InputRule as InputRule
    from detloom.geometry import PostRule as PostRule
    from detloom.hookspecs import hookimpl as hookimpl
    from detloom.host import PluginHost as PluginHost
    from detloom.host import PluginInfo as PluginInfo
    from detloom.host import discover as discover
    from detloom.losses import CIoULoss as CIoULoss
    from detloom.losses import DFLoss as DFLoss
    from detloom.losses import FocalLoss as FocalLoss
    from detloom.losses import MatchabilityLoss as MatchabilityLoss
    from detloom.losses import VarifocalLoss as VarifocalLoss
    from detloom.model import TrainedModel as TrainedModel
    from detloom.model import load_model as load_model
    from detloom.prediction import Predictor as Predictor
    from detloom.prediction import Runtime as Runtime
    from detloom.prediction import open_predictor as open_predictor
    from detloom.run import train_run as train_run
    from detloom.sample import Sample as Sample
    from detloom.specs import API_VERSION as API_VERSION
    from detloom.specs import AugmentationSpec as AugmentationSpec
    from detloom.specs import CommandSpec as CommandSpec
    from detloom.specs import ExporterSpec as ExporterSpec
    from detloom.specs import ExportRequest as ExportRequest
    from detloom.specs import FetchContext as FetchContext
    from detloom.specs import FormatSpec as FormatSpec
    from detloom.specs import LoggerContext as LoggerContext
    from detloom.specs import LoggerSpec as LoggerSpec
    from detloom.specs import LossSpec as LossSpec
    from detloom.specs import ModelContext as ModelContext
    from detloom.specs import ModelSpec as ModelSpec
    from detloom.specs import Package as Package
    from detloom.specs import RuntimeRequest as RuntimeRequest
    from detloom.specs import RuntimeSpec as RuntimeSpec
    from detloom.specs import SourceSpec as SourceSpec
    from detloom.specs import Submission as Submission
    from detloom.specs import TrackedConfig as TrackedConfig
    from detloom.specs import Tracker as Tracker
    from detloom.specs import TrackerReply as TrackerReply
    from detloom.specs import WeightsFile as WeightsFile
    from detloom.train.assemble import create_model as create_model
    from detloom_schemas import Settings as Settings

__all__ = [
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


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module 'detloom' has no attribute {name!r}")
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__

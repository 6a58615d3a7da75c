"""The configuration of a run: layers in, one validated and explained configuration out. Import it lazily."""

from detloom.config.environment import load_env
from detloom.config.explanation import LeafInfo, explain, iter_leaves
from detloom.config.files import file_layer
from detloom.config.layers import Entry, Layer, Origin, Text, mapping_layer, text_layer
from detloom.config.resolution import resolve
from detloom.config.resolved import ResolvedConfig
from detloom.config.saved import load_saved

__all__ = [
    "Entry",
    "Layer",
    "LeafInfo",
    "Origin",
    "ResolvedConfig",
    "Text",
    "explain",
    "file_layer",
    "iter_leaves",
    "load_env",
    "load_saved",
    "mapping_layer",
    "resolve",
    "text_layer",
]

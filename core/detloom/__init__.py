"""Detloom: fine-tune object detectors."""

__version__ = "0.1.0"

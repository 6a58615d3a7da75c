"""Runners of model files."""

"""Transforms of training samples."""

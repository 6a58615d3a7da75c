"""Families of detectors."""

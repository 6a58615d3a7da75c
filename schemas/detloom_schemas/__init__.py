"""Pydantic models of the configuration and of every file that a run writes."""

from detloom_schemas.base import Settings, choice

__all__ = ["Settings", "choice"]

"""The formats of datumaro: recognised only when they are named, read through the library."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from typing import TYPE_CHECKING

from detloom.data.records import ClassRecord, DataTree, Finding, ImageRecord, Sniff
from detloom.errors import PluginError

if TYPE_CHECKING:
    from detloom_plugins.formats.datumaro.settings import DatumaroSettings

INSTALL = "pip install 'detloom[datumaro]'"


class DatumaroFormat:
    def __init__(self, settings: DatumaroSettings) -> None:
        self._settings = settings

    def sniff(self, tree: DataTree) -> Sniff:
        """Never sure: the library takes seconds to look, and several of its formats fit one folder."""
        named = "data.format=datumaro lets it read KITTI, WIDER Face, MOT, LabelMe's xml and others"
        installed = importlib.util.find_spec("datumaro") is not None
        return Sniff(0.0, named if installed else f"{named}, once it is installed ({INSTALL})")

    def read(self, tree: DataTree) -> Iterator[ClassRecord | ImageRecord | Finding]:
        """Raises PluginError when the library is not installed, or knows no such format."""
        if importlib.util.find_spec("datumaro") is None:
            raise PluginError("data.format=datumaro needs the library datumaro", hint=INSTALL)
        from detloom_plugins.formats.datumaro.reader import read_tree

        yield from read_tree(tree, self._settings.reader)

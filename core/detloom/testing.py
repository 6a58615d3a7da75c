"""For authors of plugins: a host with just their module, and a check of the contract.

from detloom.testing import problems
import my_package.plugin

def test_the_plugin_keeps_the_contract():
    assert problems(my_package.plugin) == []
"""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from types import ModuleType

from detloom.discovery import FIRST_PARTY_PACKAGE, Candidate, first_party_candidates
from detloom.errors import DetloomError
from detloom.host import PluginHost, PluginInfo, describe
from detloom.specs import SPEC_TYPES, AugmentationSpec, ModelSpec, Spec

HEAVY = (
    "albumentations", "clearml", "cv2", "cvat_sdk", "hotcoco", "jinja2", "minio", "numpy", "onnx", "onnxruntime",
    "onnxslim", "pycocotools", "pydantic", "rich", "tensorboard", "torch", "transformers",
)  # fmt: skip
"""Packages that the front of a plugin must not import: listing plugins would become slow."""


def host_with(**plugins: object) -> PluginHost:
    """A host with these plugins alone: `host_with(mine=my_package.plugin)`. A broken one is listed, not raised."""
    return PluginHost([_candidate(name, plugin) for name, plugin in plugins.items()])


def host_with_first_party(**plugins: object) -> PluginHost:
    """A host with these plugins beside Detloom's own, as after `pip install`."""
    return PluginHost([*first_party_candidates(), *(_candidate(name, plugin) for name, plugin in plugins.items())])


def problems(plugin: object) -> list[str]:
    """What is wrong with a plugin, in sentences; empty when it keeps the contract.

    plugin: its module (or object). Looks at the API version, hook names, specs, their settings, a model's recipe and
    what the front imports (in a process of its own). Builds nothing but transforms, which must reach worker processes.
    """
    name = plugin.__name__ if isinstance(plugin, ModuleType) else ""
    others = [other for other in first_party_candidates() if name != f"{FIRST_PARTY_PACKAGE}.{other.name}"]
    host = PluginHost([*others, _candidate("plugin_under_test", plugin)])
    info = next(info for info in host.plugins if info.name == "plugin_under_test")
    if info.status != "ok":
        return [info.reason]
    found = [] if info.hooks else ["it implements no hook: nothing would ever call it"]
    for kind in SPEC_TYPES:
        for spec in host.specs(kind):
            if host.plugin_of(spec) is info:
                found += [f"{kind.kind} {spec.name}: {problem}" for problem in _spec_problems(host, info, spec)]
    if _is_importable(plugin):
        found += [problem for spec in host.specs(AugmentationSpec) for problem in _sending_problems(host, info, spec)]
    return found + list(_import_problems(plugin))


def _candidate(name: str, plugin: object) -> Candidate:
    return Candidate(name, name, "0", "entry point", partial(_same, plugin))


def _same(plugin: object) -> object:
    return plugin


def _spec_problems(host: PluginHost, info: PluginInfo, spec: Spec) -> Iterator[str]:
    if not spec.summary.strip() or "\n" in spec.summary.strip():
        yield "its summary must be one line"
    for name in ("build", "run"):
        if hasattr(spec, name) and not callable(getattr(spec, name)):
            yield f"`{name}` must be callable"
    try:
        yield from _settings_problems(host, spec)
        if isinstance(spec, ModelSpec):
            _resolve_alone(host, info, spec)
    except DetloomError as error:
        yield error.message


def _settings_problems(host: PluginHost, spec: Spec) -> Iterator[str]:
    from detloom.config.advice import looks_like_secret
    from detloom.config.compose import leaves_of, settings_of

    settings = settings_of(host, spec)
    for leaf in leaves_of(type(settings), settings):
        if not leaf.info.description:
            yield f"the setting {leaf.key} has no description"
        if leaf.info.is_required():
            yield f"the setting {leaf.key} has no default"
        if looks_like_secret(leaf.key):
            yield f"the setting {leaf.key} would hold a secret; name an environment variable in {leaf.key}_env"


def _resolve_alone(host: PluginHost, info: PluginInfo, spec: ModelSpec) -> None:
    """Raises DetloomError when a run with this model and nothing else could not even be configured."""
    from detloom.config import mapping_layer, resolve

    resolve(host, [mapping_layer({"model.type": f"{info.name}:{spec.name}"})])


def _sending_problems(host: PluginHost, info: PluginInfo, spec: AugmentationSpec) -> Iterator[str]:
    """Workers that are spawned, as on macOS and Windows, get transforms by pickle."""
    if host.plugin_of(spec) is not info:
        return
    try:
        pickle.dumps(spec.build(spec.settings()))
    except Exception as error:
        yield (
            f"augmentation {spec.name}: its transform cannot be sent to worker processes ({describe(error)}); "
            "make it an object of a class at module level that keeps plain values"
        )


def _module_name(plugin: object) -> str:
    return plugin.__name__ if isinstance(plugin, ModuleType) else type(plugin).__module__


def _is_importable(plugin: object) -> bool:
    """False for a module made in memory: there is nothing that another process could import."""
    return getattr(sys.modules.get(_module_name(plugin)), "__file__", None) is not None


def _import_problems(plugin: object) -> Iterator[str]:
    name = _module_name(plugin)
    if not _is_importable(plugin):
        return
    code = f"import sys, {name}; print(*sorted(set({HEAVY!r}) & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:] = {sys.path!r}; {code}"],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        yield f"{name} cannot be imported in a fresh process: {done.stderr.strip().splitlines()[-1]}"
    elif heavy := done.stdout.split():
        yield f"{name} imports {', '.join(heavy)} when it is listed; move heavy imports into functions"

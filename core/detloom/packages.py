"""Which distributions a run needs, and the line with which pip installs each of them on another machine.

Where a distribution came from is read from `direct_url.json` (PEP 610), which installers leave beside its metadata.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

import detloom
from detloom.discovery import OWN_DISTRIBUTION
from detloom.repository import RepositoryError, as_pip_source, find_repository, without_credentials
from detloom.run_folder import plugins_in_use
from detloom.specs import Package

if TYPE_CHECKING:
    from detloom.config import ResolvedConfig
    from detloom.host import PluginHost

TOOLING = {"dev", "tune", "all"}
"""Extras of Detloom that no run needs, and the one that repeats others, which build tools spell out in the metadata."""

_REQUIREMENT = re.compile(r"\s*(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)\s*(?P<extras>\[[^\]]*\])?")
_EXTRA = re.compile(r"""extra\s*==\s*['"](?P<extra>[^'"]+)['"]""")


def packages_in_use(host: PluginHost, resolved: ResolvedConfig) -> tuple[Package, ...]:
    """Detloom's own distribution first, then that of every plugin in use, by name: the plugins that the configuration
    names, and every loaded one of a third party, for its observers, trackers and commands act without being named."""
    plugins: dict[str, list[str]] = {}
    for row in plugins_in_use(resolved, host):
        plugins.setdefault(normalised(row["distribution"]), []).append(row["name"])
    own = own_package(sorted(plugins.pop(OWN_DISTRIBUTION, [])))
    return (own, *(installed_package(name, sorted(plugins[name])) for name in sorted(plugins)))


def own_package(plugins: Iterable[str] = ()) -> Package:
    """The distribution of the imported Detloom, which of a clone exists only there, installed in place or not."""
    checkout = own_checkout()
    package = Path(detloom.__file__).resolve().parent
    if checkout is None:
        installed = installed_package(OWN_DISTRIBUTION, plugins)
        try:
            if Path(str(distribution(OWN_DISTRIBUTION).locate_file("detloom"))).resolve() == package:
                return installed
        except PackageNotFoundError:
            pass
    where = str(checkout or package)
    return Package(OWN_DISTRIBUTION, detloom.__version__, "", where, tuple(plugins))


def own_checkout() -> Path | None:
    """The root of the clone that the imported Detloom is in; None when it was installed."""
    package = Path(detloom.__file__).resolve().parent
    root = package.parent.parent
    return root if package.parent.name == "core" and (root / "run_training.py").is_file() else None


def installed_package(name: str, plugins: Iterable[str] = ()) -> Package:
    """What can be said of an installed distribution; of one without metadata, that nobody can install it elsewhere."""
    try:
        found = distribution(name)
    except PackageNotFoundError:
        return Package(normalised(name), "?", "", "unknown", tuple(plugins))
    requirement, where = _origin(found)
    return Package(normalised(name), found.version, requirement, where, tuple(plugins))


def runtime_requirements() -> tuple[str, ...]:
    """Detloom's direct dependencies as they are installed here, `name==version`, with those of extras that are.

    Of a clone the declaration is its pyproject.toml, else the metadata of the distribution.
    """
    lines = set()
    for declared in _declared():
        match = _REQUIREMENT.match(declared)
        if match is None or normalised(match["name"]) == OWN_DISTRIBUTION:
            continue
        try:
            found = distribution(match["name"])
        except PackageNotFoundError:
            continue
        extras = (match["extras"] or "").replace(" ", "")
        pinned = f"{normalised(match['name'])}{extras}=={_public(found.version)}"
        source, where = _origin(found)
        lines.add(pinned if where == "index" or not source else source.replace(" @ ", f"{extras} @ ", 1))
    return tuple(sorted(lines))


def normalised(name: str) -> str:
    """A distribution's name as PEP 503 compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _declared() -> list[str]:
    checkout = own_checkout()
    if checkout is not None:
        import tomllib

        project = tomllib.loads((checkout / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        extras = project.get("optional-dependencies", {})
        return [*project["dependencies"], *(line for name in extras if name not in TOOLING for line in extras[name])]
    try:
        declared = distribution(OWN_DISTRIBUTION).requires or []
    except PackageNotFoundError:
        return []
    return [line for line in declared if not TOOLING.intersection(_EXTRA.findall(line))]


def _origin(found: Distribution) -> tuple[str, str]:
    """Requirement and place of an installed distribution, as in Package."""
    name = normalised(found.metadata["Name"])
    indexed = (f"{name}=={_public(found.version)}", "index")
    text = found.read_text("direct_url.json")
    if (found.read_text("INSTALLER") or "").strip() == "conda":
        return indexed  # conda packages keep the address of the machine that built them
    if text is None:
        # Without a list of files no installer was at work: a folder of sources, or one that `setup.py develop` linked.
        listed = any(found.read_text(file) is not None for file in ("RECORD", "installed-files.txt"))
        return indexed if listed else ("", str(found.locate_file("")))
    try:
        origin = json.loads(text)
        url = str(origin["url"])
    except (ValueError, KeyError, TypeError):
        return "", "unknown"
    return _direct(name, url, origin)


def _direct(name: str, url: str, origin: Mapping[str, Any]) -> tuple[str, str]:
    """What PEP 610 says of a distribution that came from no index."""
    subdirectory = origin.get("subdirectory", "")
    if "vcs_info" in origin:
        vcs = origin["vcs_info"]
        address = without_credentials(url)
        source = as_pip_source(address).removeprefix("git+")
        return _from_repository(name, f"{vcs['vcs']}+{source}@{vcs['commit_id']}", subdirectory), address
    if url.startswith("file:"):
        folder = Path(url2pathname(urlsplit(url).path))
        if origin.get("dir_info", {}).get("editable"):
            return _editable(name, folder)
        return "", str(folder)
    archive = origin.get("archive_info", {})
    digests = {
        **dict([archive["hash"].split("=", 1)] if "=" in archive.get("hash", "") else []),
        **archive.get("hashes", {}),
    }
    parts = [f"sha256={digests['sha256']}"] if "sha256" in digests else []
    parts += [f"subdirectory={subdirectory}"] if subdirectory else []
    address = without_credentials(url)
    return f"{name} @ {address}" + (f"#{'&'.join(parts)}" if parts else ""), address


def _editable(name: str, folder: Path) -> tuple[str, str]:
    """Installed in place: another machine can have it when the folder is in a repository whose files are all
    committed and pushed."""
    try:
        repository = find_repository(folder)
    except RepositoryError:
        repository = None
    resolved = folder.resolve()
    # Files that git does not know are part of a package that is installed in place.
    if (
        repository is None
        or not repository.fetchable
        or any(
            (repository.root / path).resolve().is_relative_to(resolved)
            or resolved.is_relative_to(repository.root / path)
            for path in repository.untracked
        )
    ):
        return "", str(folder)
    source = f"{as_pip_source(repository.url)}@{repository.commit}"
    inside = resolved.relative_to(repository.root).as_posix()
    return _from_repository(name, source, "" if inside == "." else inside), repository.url


def _from_repository(name: str, source: str, subdirectory: str) -> str:
    return f"{name} @ {source}" + (f"#subdirectory={subdirectory}" if subdirectory else "")


def _public(version: str) -> str:
    """Without the local part: `2.6.0+cpu` is no index's name of a release."""
    return version.partition("+")[0]

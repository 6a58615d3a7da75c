"""The line with which pip installs on another machine what is installed here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

import detloom
from config_tools import candidate, own, small_host
from conftest import IMPORT_ROOTS, ROOT
from detloom import packages
from detloom.config import mapping_layer, resolve
from detloom.host import PluginHost
from detloom.packages import installed_package, own_package, packages_in_use, runtime_requirements
from detloom.specs import AugmentationSpec, CommandSpec, Package
from git_tools import commit, git, new_repository, push_to_bare, served, write
from plugin_tools import PACKAGE

COMMIT = "1f" * 20


def install(
    site: Path, *, name: str = "apple-tools", version: str = "1.2", origin: dict[str, Any] | None = None, **files: str
) -> None:
    """What an installer leaves of a distribution."""
    info = site / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (info / "RECORD").write_text("")
    if origin is not None:
        (info / "direct_url.json").write_text(json.dumps(origin))
    for file, text in files.items():
        (info / file).write_text(text)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of installed distributions."""
    folder = tmp_path / "site-packages"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    return folder


def from_git(url: str, **more: str) -> dict[str, Any]:
    return {"url": url, "vcs_info": {"vcs": "git", "commit_id": COMMIT, "requested_revision": "main"}, **more}


def archive(url: str, **info: Any) -> dict[str, Any]:
    return {"url": url, "archive_info": info}


@pytest.mark.parametrize(
    ("origin", "requirement", "where"),
    [
        (None, "apple-tools==1.2", "index"),
        (
            from_git("https://git.example/fruit/apple.git"),
            f"apple-tools @ git+https://git.example/fruit/apple.git@{COMMIT}",
            "https://git.example/fruit/apple.git",
        ),
        (
            from_git("https://git.example/fruit.git", subdirectory="apple"),
            f"apple-tools @ git+https://git.example/fruit.git@{COMMIT}#subdirectory=apple",
            "https://git.example/fruit.git",
        ),
        (
            from_git("https://bob:s3cret@git.example/apple.git"),
            f"apple-tools @ git+https://git.example/apple.git@{COMMIT}",
            "https://git.example/apple.git",
        ),
        (
            from_git("ssh://git@git.example/apple.git"),
            f"apple-tools @ git+ssh://git@git.example/apple.git@{COMMIT}",
            "ssh://git@git.example/apple.git",
        ),
        (
            from_git("file:///srv/apple.git"),
            f"apple-tools @ git+file:///srv/apple.git@{COMMIT}",
            "file:///srv/apple.git",
        ),
        (
            archive("https://files.example/apple-1.2.zip", hash="sha256=ab12"),
            "apple-tools @ https://files.example/apple-1.2.zip#sha256=ab12",
            "https://files.example/apple-1.2.zip",
        ),
        (
            archive("https://files.example/apple-1.2.zip", hashes={"sha256": "cd34"}),
            "apple-tools @ https://files.example/apple-1.2.zip#sha256=cd34",
            "https://files.example/apple-1.2.zip",
        ),
        (
            archive("https://bob:s3cret@files.example/apple.zip?token=abc") | {"subdirectory": "src"},
            "apple-tools @ https://files.example/apple.zip#subdirectory=src",
            "https://files.example/apple.zip",
        ),
        (archive("file:///home/bob/my%20wheels/apple.whl"), "", "/home/bob/my wheels/apple.whl"),
        ({"url": "file:///home/bob/apple", "dir_info": {}}, "", "/home/bob/apple"),
        ({"url": "file:///home/bob/apple", "dir_info": {"editable": True}}, "", "/home/bob/apple"),
    ],
)
def test_the_requirement_says_where_the_distribution_came_from(
    site: Path, origin: dict[str, Any] | None, requirement: str, where: str
) -> None:
    install(site, origin=origin)
    assert installed_package("apple-tools") == Package("apple-tools", "1.2", requirement, where)


def test_a_record_of_origin_that_cannot_be_read_is_no_requirement(site: Path) -> None:
    install(site, **{"direct_url.json": "{broken"})
    assert installed_package("apple-tools").requirement == ""


def test_the_local_part_of_a_version_is_left_out(site: Path) -> None:
    install(site, version="2.6.0+cpu")
    assert installed_package("apple-tools") == Package("apple-tools", "2.6.0+cpu", "apple-tools==2.6.0", "index")


def test_names_are_written_as_an_index_compares_them(site: Path) -> None:
    install(site, name="Apple_Tools.Extra")
    assert installed_package("apple-tools-extra").requirement == "apple-tools-extra==1.2"


def test_a_conda_package_is_named_by_its_version_and_not_by_the_machine_that_built_it(site: Path) -> None:
    install(site, origin={"url": "file:///croot/apple", "dir_info": {}}, INSTALLER="conda\n")
    assert installed_package("apple-tools").requirement == "apple-tools==1.2"


def test_sources_that_are_only_on_the_path_cannot_be_installed_elsewhere(site: Path) -> None:
    info = site / "apple_tools.egg-info"  # what `setup.py develop` leaves
    write(info, {"PKG-INFO": "Metadata-Version: 2.1\nName: apple-tools\nVersion: 1.2\n"})
    assert installed_package("apple-tools") == Package("apple-tools", "1.2", "", str(site))


def test_a_distribution_without_metadata_has_no_requirement() -> None:
    assert installed_package("nothing-like-it") == Package("nothing-like-it", "?", "", "unknown")


# --- installed in place ---


@pytest.fixture
def orchard(site: Path, tmp_path: Path) -> Path:
    """A repository with a package in a folder of its own, installed in place and pushed."""
    folder = tmp_path / "orchard"
    new_repository(folder, {"apple/pyproject.toml": "", "apple/apple.py": "", "notes/todo.txt": ""})
    push_to_bare(folder, tmp_path / "orchard.git")
    install(site, origin={"url": (folder / "apple").as_uri(), "dir_info": {"editable": True}})
    return folder


def test_a_package_installed_in_place_from_a_pushed_commit_is_that_commit(orchard: Path, tmp_path: Path) -> None:
    bare = (tmp_path / "orchard.git").as_uri()
    pinned = f"{bare}@{git(orchard, 'rev-parse', 'HEAD')}"
    assert installed_package("apple-tools") == Package(
        "apple-tools", "1.2", f"apple-tools @ git+{pinned}#subdirectory=apple", bare
    )


@pytest.mark.parametrize("change", ["edited", "unpushed", "new file", "no remote"])
def test_a_package_installed_in_place_that_nobody_can_fetch_has_no_requirement(orchard: Path, change: str) -> None:
    if change == "edited":
        write(orchard, {"apple/apple.py": "changed = True"})
    elif change == "unpushed":
        commit(orchard, {"apple/apple.py": "changed = True"})
    elif change == "new file":
        write(orchard, {"apple/pear.py": ""})
    else:
        git(orchard, "remote", "remove", "origin")
    assert installed_package("apple-tools") == Package("apple-tools", "1.2", "", str(orchard / "apple"))


def test_a_new_file_elsewhere_in_the_repository_is_no_part_of_the_package(orchard: Path) -> None:
    write(orchard, {"notes/idea.txt": ""})
    assert installed_package("apple-tools").requirement


def test_the_short_ssh_address_of_a_remote_becomes_one_that_pip_reads(orchard: Path) -> None:
    git(orchard, "remote", "set-url", "origin", "git@git.example:fruit/orchard.git")
    requirement = installed_package("apple-tools").requirement
    assert requirement.startswith("apple-tools @ git+ssh://git@git.example/fruit/orchard.git@")


# --- what a run needs ---


def test_every_loaded_plugin_of_others_and_every_chosen_one_is_in_use(site: Path) -> None:
    install(site, name="pear", version="3")
    install(site, name="plum", version="4")
    pear = candidate("pear", "entry point", "detloom_augmentations", own(AugmentationSpec, ["graft"]))
    plum = candidate(
        "plum", "entry point", "detloom_commands", [CommandSpec(name="press", summary="s", run=lambda arguments: 0)]
    )
    host = small_host(pear, plum)
    resolved = resolve(host, [mapping_layer({"augmentation.transforms": ["graft"]}, "file")])
    detloom_itself, *others = packages_in_use(host, resolved)
    assert (detloom_itself.distribution, detloom_itself.version) == ("detloom", detloom.__version__)
    assert {"models", "augmentations"} & set(detloom_itself.plugins) == {"models"}
    assert others == [
        Package("pear", "3", "pear==3", "index", ("pear",)),
        Package("plum", "4", "plum==4", "index", ("plum",)),
    ]


def test_a_broken_plugin_is_not_in_use(site: Path) -> None:
    misplaced = CommandSpec(name="press", summary="s", run=lambda arguments: 0)
    broken = candidate("pear", "entry point", "detloom_augmentations", [misplaced])
    host: PluginHost = small_host(broken)
    assert [package.distribution for package in packages_in_use(host, resolve(host, []))] == ["detloom"]


def test_detloom_of_a_clone_exists_only_there() -> None:
    assert own_package(["models.yolox"]) == Package("detloom", detloom.__version__, "", str(ROOT), ("models.yolox",))


def test_an_installed_detloom_beside_a_clone_is_not_what_runs(site: Path) -> None:
    install(site, name="detloom", version="9.9")
    assert own_package().requirement == ""


def test_runtime_requirements_pin_the_direct_dependencies_to_what_is_installed() -> None:
    lines = runtime_requirements()
    assert f"torch=={version('torch').partition('+')[0]}" in lines
    assert f"opencv-python-headless=={version('opencv-python-headless')}" in lines
    assert f"onnxslim=={version('onnxslim')}" in lines  # an extra that is installed
    names = {line.split("==")[0] for line in lines}
    assert "detloom" not in names and not names & {"pytest", "mypy", "ruff"}
    assert len(names) == len(lines)


def test_a_distribution_says_its_dependencies_in_its_metadata(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    requires = [
        "numpy>=1",
        "rich [jupyter] >=13",
        'onnxslim; extra == "simplify"',
        'pytest; extra == "dev"',
        'optuna; extra == "tune"',
        'optuna; extra == "all"',
        "absent>1",
    ]
    metadata = "".join(f"Requires-Dist: {line}\n" for line in [*requires, 'detloom[simplify]; extra == "all"'])
    install(site, name="detloom", METADATA=f"Metadata-Version: 2.1\nName: detloom\nVersion: 1\n{metadata}")
    monkeypatch.setattr(packages, "own_checkout", lambda: None)
    expected = [f"numpy=={version('numpy')}", f"onnxslim=={version('onnxslim')}", f"rich[jupyter]=={version('rich')}"]
    assert list(runtime_requirements()) == expected


# --- as pip really leaves it ---


@pytest.mark.slow
def test_what_pip_installed_from_git_can_be_installed_again_from_its_requirement(tmp_path: Path) -> None:
    source = tmp_path / "source"
    write(
        source,
        {
            f"pkg/{path.relative_to(PACKAGE)}": path.read_text()
            for path in PACKAGE.rglob("*.[pt][yo]*")
            if path.is_file()
        },
    )
    head = new_repository(source, {})
    push_to_bare(source, tmp_path / "source.git")
    # By http: the requirements reader of older pips takes no git+file address.
    with served(tmp_path / "source.git") as address:
        expected = f"orchard-vision @ git+{address}@{head}#subdirectory=pkg"
        first = pip_install(tmp_path / "first", f"orchard-vision @ git+{address}#subdirectory=pkg")
        assert requirement_in(first) == expected
        second = pip_install(tmp_path / "second", expected)
        assert requirement_in(second) == expected


def pip_install(place: Path, requirement: str) -> Path:
    """Into an environment of its own that sees this one's build tools; returns its python."""
    venv.create(place, system_site_packages=True, with_pip=False)
    python = place / "bin" / "python"
    tools = next(entry for entry in sys.path if entry.endswith("site-packages"))
    quick = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check"]
    environ = {**os.environ, "PYTHONPATH": tools}
    done = subprocess.run(
        [python, "-m", "pip", "install", *quick, "--ignore-installed", "--prefix", place, requirement],
        env=environ, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return python


def requirement_in(python: Path) -> str:
    code = "from detloom.packages import installed_package; print(installed_package('orchard-vision').requirement)"
    tools = [entry for entry in sys.path if entry.endswith("site-packages")]
    own_site = next((python.parent.parent / "lib").glob("python*/site-packages"))
    path = os.pathsep.join([*IMPORT_ROOTS, str(own_site), *tools])
    done = subprocess.run(
        [python, "-c", code], env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()

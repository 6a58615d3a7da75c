"""What an agent needs to execute a run elsewhere: repository, commit, entry point, requirements.

Three cases. Detloom from a checkout: that repository and `run_training.py`. Detloom installed, in a repository of the
user's own: that repository, so that relative paths mean the same, and `-m detloom`. Detloom installed and no
repository: `-m detloom` alone.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from detloom.discovery import OWN_DISTRIBUTION
from detloom.packages import own_checkout, runtime_requirements
from detloom.repository import Repository, RepositoryError, find_repository, git, read_diff, shorten
from detloom.specs import Package, TrackedConfig

DIFF_LIMIT = 500_000
"""Bytes of uncommitted changes that a task keeps; the SDK's own limit."""

MODULE = "-m detloom"
CODE = ("core/", "plugins/", "integrations/", "schemas/")

# The server takes no task without a repository or a text; an agent writes this text into a file that nothing reads.
NO_REPOSITORY = f"# {MODULE}, as the requirements install it: there is no repository.\n"


@dataclass(frozen=True, slots=True)
class Script:
    """repository, branch, version_num (a commit), entry_point, working_dir, diff: as in a task's `script` section.

    problems: why an agent could not execute this as it is, each with its remedy.
    """

    entry_point: str
    requirements: tuple[str, ...]
    repository: str = ""
    branch: str = ""
    version_num: str = ""
    working_dir: str = "."
    diff: str = ""
    problems: tuple[str, ...] = ()

    @property
    def section(self) -> dict[str, Any]:
        """The `script` of `tasks.create` and `tasks.edit`."""
        names = ("entry_point", "repository", "branch", "version_num", "working_dir", "diff")
        return {
            "binary": f"python{sys.version_info.major}.{sys.version_info.minor}",
            **{name: getattr(self, name) for name in names},
            "requirements": {"pip": "".join(f"{line}\n" for line in self.requirements)},
        }


def describe_script(config: TrackedConfig, cwd: Path) -> Script:
    """cwd: the folder that the run was started in. Never raises for the state of a repository: it is told in
    `problems`."""
    checkout = own_checkout()
    packages = [package for package in config.packages if not (checkout and package.distribution == OWN_DISTRIBUTION)]
    requirements = (*map(_for_agent, runtime_requirements()), *_requirements(packages))
    faults = tuple(_local_package(package) for package in packages if not package.requirement)
    if checkout is not None:
        script, problems = _of_checkout(checkout, requirements)
    else:
        script, problems = _of_folder(cwd, requirements)
    return replace(script, problems=(*problems, *faults))


def _requirements(packages: Iterable[Package]) -> list[str]:
    # What cannot be installed elsewhere stands as a comment: who reads the task sees what is missing.
    return [
        _for_agent(package.requirement) or f"# {package.distribution} {package.version} exists only in {package.where}"
        for package in packages
    ]


def _for_agent(requirement: str) -> str:
    """The agent's reader of requirements makes `name` of `name @ git+file:...`, whatever version an index has of that;
    without the name it leaves the line alone."""
    _, at, source = requirement.partition(" @ ")
    return source if at and source.startswith("git+file:") else requirement


def _local_package(package: Package) -> str:
    name, where = package.distribution, package.where
    brings = "" if name == OWN_DISTRIBUTION else f", which brings {shorten(package.plugins)},"
    return (
        f"{name} {package.version}{brings} was installed from {where} and from nowhere that an agent could reach: "
        f"install it from an index or from git (pip install '{name} @ git+https://...'), or commit and push that "
        "folder if it is installed in place"
    )


def _of_checkout(checkout: Path, requirements: tuple[str, ...]) -> tuple[Script, list[str]]:
    """Detloom's own code, from wherever its clone has it."""
    entry = "run_training.py"
    repository, problems = _look(checkout)
    if repository is not None and repository.commit and not _holds(repository, checkout / entry):
        repository, problems = None, []  # a folder that the repository around it ignores
    if repository is None or not (repository.url and repository.commit):
        reason = problems[0] if problems else f"Detloom runs from {checkout}, which is in no git repository"
        problem = f"{reason}. Or use a clone of a repository that was pushed, or install Detloom with pip"
        # An agent that is given this task all the same says so, and does not run something else.
        return Script(entry, requirements, diff=_stopping(problem)), [problem]
    folder = checkout.relative_to(repository.root).as_posix()
    prefix = "" if folder == "." else f"{folder}/"
    code = tuple(f"{prefix}{name}" for name in CODE)
    lost = [path for path in repository.untracked if path.startswith(code)]
    if lost:
        problems.append(f"git does not know these files of Detloom: {shorten(lost)}; add and commit them, and push")
    diff, faults = _diff(repository)
    script = Script(
        entry, requirements, repository.url, repository.branch, repository.commit, working_dir=folder, diff=diff
    )
    return script, [*problems, *faults]


def _of_folder(cwd: Path, requirements: tuple[str, ...]) -> tuple[Script, list[str]]:
    """Installed Detloom. The repository around the folder is there for the sake of relative paths: without one that
    can be fetched, Detloom alone is executed."""
    repository, problems = _look(cwd)
    if repository is None or not (repository.url and repository.commit):
        return Script(MODULE, requirements, diff=NO_REPOSITORY), problems
    folder = cwd.resolve().relative_to(repository.root).as_posix()
    if folder != "." and not _holds(repository, repository.root / folder):
        problems.append(f"the current folder {folder} is not in the last commit of {repository.root}: start elsewhere")
        folder = "."
    diff, faults = _diff(repository)
    script = Script(
        MODULE, requirements, repository.url, repository.branch, repository.commit, working_dir=folder, diff=diff
    )
    return script, [*problems, *faults]


def _look(folder: Path) -> tuple[Repository | None, list[str]]:
    """The repository around a folder, and whatever keeps other machines from having it as it is."""
    try:
        repository = find_repository(folder)
    except RepositoryError as error:
        return None, [f"{error.message}{'; ' * bool(error.hint)}{error.hint}"]
    return repository, list(_faults(repository)) if repository is not None else []


def _faults(repository: Repository) -> Iterable[str]:
    root = repository.root
    if not repository.commit:
        yield f"the repository {root} has no commit yet: commit and push"
        return
    if not repository.url:
        yield f"the repository {root} has no remote that could be cloned: git remote add origin URL, and push"
    elif repository.unpushed:
        what = "its commit is" if len(repository.unpushed) == 1 else "its newest commits are"
        yield (
            f"the repository {root} was not pushed: {what} on no branch of {repository.url} as of the last fetch "
            f"({shorten(repository.unpushed, 3)}); git push, or git fetch if somebody else did"
        )
    if repository.changed:
        yield f"the repository {root} has uncommitted changes: {shorten(repository.changed)}; commit and push them"
    for fault in repository.submodules:
        yield f"in the repository {root}, {fault}; push it there"


def _holds(repository: Repository, path: Path) -> bool:
    """Whether the last commit has this file or folder."""
    try:
        name = path.resolve().relative_to(repository.root).as_posix()
        return bool(git(repository.root, "ls-tree", "HEAD", "--", name))
    except RepositoryError:
        return False


def _diff(repository: Repository) -> tuple[str, list[str]]:
    """The uncommitted changes, for an agent to apply. What a task cannot keep is replaced by a text that an agent
    refuses to apply, and shows: it must not run the commit without the changes in silence."""
    if not repository.changed:
        return "", []
    try:
        diff = read_diff(repository.root)
    except (RepositoryError, UnicodeError) as error:
        reason = error.message if isinstance(error, RepositoryError) else "they are no UTF-8 text"
    else:
        size = len(diff.encode())
        if size <= DIFF_LIMIT:
            return diff, []
        reason = f"they are {size:,} bytes, and a task keeps {DIFF_LIMIT:,}"
    message = f"the uncommitted changes of {repository.root} could not be kept with the task: {reason}"
    text = f"diff not kept: {message}.\nEmpty this section to execute the commit without them.\n"
    return text, [f"{message}; commit and push them"]


def _stopping(reason: str) -> str:
    """A script that says why it is not the run. It stands in for `run_training.py`, and fails."""
    return f"raise SystemExit({f'this task cannot be executed: {reason}'!r})\n"

"""What git knows of a folder, and what of it another machine can fetch.

Nothing here asks a remote: whether a commit was pushed is judged by the remote's branches as of the last fetch or
push. Every call of git has a limit of time and never asks for credentials.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from detloom.errors import DetloomError

TIMEOUT_S = 20.0
UNPUSHED_SHOWN = 5

_SCP = re.compile(r"(?P<host>(?:[^/@:]+@)?[^/:@]{2,}):(?P<path>(?!//).+)")
"""git's short form of an ssh address, `git@host:path`; two letters at least, for a drive's letter is no host."""


class RepositoryError(DetloomError):
    """There is a repository, but git does not tell about it."""


@dataclass(frozen=True, slots=True)
class Repository:
    """A git work tree.

    url: of the remote that another machine would fetch from, without credentials; empty when there is no remote.
    branch: empty for a detached HEAD. commit: empty before the first one. changed: tracked files that differ from the
    commit. untracked: files and folders that git neither tracks nor ignores. unpushed: commits (`1a2b3c4 subject`,
    the newest few) that no branch of the remote holds. submodules: sentences about submodules whose commit was not
    pushed.
    """

    root: Path
    url: str
    branch: str
    commit: str
    changed: tuple[str, ...]
    untracked: tuple[str, ...]
    unpushed: tuple[str, ...]
    submodules: tuple[str, ...]

    @property
    def fetchable(self) -> bool:
        """Whether another machine gets exactly these tracked files from the remote."""
        return bool(self.url and self.commit) and not (self.changed or self.unpushed or self.submodules)


def git(folder: Path, *arguments: str) -> str:
    """What git prints. Raises RepositoryError: git is missing, refuses, fails, or takes longer than 20 s."""
    try:
        done = subprocess.run(
            ["git", "-c", "core.quotePath=false", *arguments],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env=_environment(),
            timeout=TIMEOUT_S,
            check=False,
        )
    except FileNotFoundError as error:
        raise RepositoryError(f"git is not installed, and {folder} is in a git repository") from error
    except subprocess.TimeoutExpired as error:
        message = f"`git {arguments[0]}` in {folder} did not end within {TIMEOUT_S:g} s"
        raise RepositoryError(message, hint="look at it with: git status") from error
    except OSError as error:
        raise RepositoryError(f"git cannot be run in {folder}: {error.strerror or error}") from error
    if done.returncode != 0:
        raise _refusal(folder, arguments[0], done.stderr.decode(errors="replace"))
    return done.stdout.decode("utf-8", errors="surrogateescape")


def find_repository(folder: Path) -> Repository | None:
    """The repository that this folder is in; None outside of any. Raises RepositoryError."""
    folder = folder.resolve()
    if not any((place / ".git").exists() for place in (folder, *folder.parents)):
        return None
    try:
        if git(folder, "rev-parse", "--is-inside-work-tree").strip() != "true":
            return None
    except RepositoryError as error:
        if "(or any" in error.message:  # something called .git that is no repository: git went on to the root
            return None
        raise
    root = Path(git(folder, "rev-parse", "--show-toplevel").removesuffix("\n"))
    head, changed, untracked = _status(root)
    remote, pushed = _choose_remote(root, head)
    return Repository(
        root=root,
        url=_url(root, remote),
        branch=head.branch,
        commit=head.commit,
        changed=changed,
        untracked=untracked,
        unpushed=() if pushed or not head.commit else _unpushed(root, head.commit, remote),
        submodules=tuple(_submodule_faults(root)),
    )


def read_diff(root: Path) -> str:
    """Changes of tracked files since the last commit, as `git apply` takes them. Raises RepositoryError; UnicodeError
    for changes that are no UTF-8 text."""
    # Neither the user's colours nor tools for reading may get into it; prefixes are a matter of configuration too.
    plain = ["--no-color", "--no-ext-diff", "--no-textconv", "--src-prefix=a/", "--dst-prefix=b/"]
    text = git(root, "diff", *plain, "--binary", "--submodule=diff", "HEAD")
    text.encode()
    return text


def is_in_commit(root: Path, path: Path) -> bool:
    """Whether this file or folder below root is in the last commit, whole: nothing in it is changed, untracked or
    ignored. Raises RepositoryError."""
    relative = path.relative_to(root).as_posix()
    if relative == ".":
        return True
    if not git(root, "ls-tree", "HEAD", "--", relative):
        return False
    return not git(root, "status", "--porcelain", "-z", "--ignored", "--untracked-files=normal", "--", relative)


def without_credentials(url: str) -> str:
    """The address of a remote with whatever may be a password or a token removed; `git@` of ssh stays."""
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https", "ssh", "git", "ftp", "ftps"} or not parts.hostname:
        return url
    user = parts.username if parts.scheme == "ssh" else None
    host = parts.netloc.rpartition("@")[2]
    query = "" if parts.scheme in {"http", "https"} else parts.query
    return urlunsplit(parts._replace(netloc=f"{user}@{host}" if user else host, query=query))


def as_pip_source(url: str) -> str:
    """The address of a git remote as pip writes it: `git+https://...`, `git+ssh://git@host/path`."""
    short = _SCP.fullmatch(url)
    return f"git+ssh://{short['host']}/{short['path'].lstrip('/')}" if short and "://" not in url else f"git+{url}"


@dataclass(frozen=True, slots=True)
class _Head:
    commit: str
    branch: str


def _environment() -> dict[str, str]:
    """Without the variables by which a hook of git points at the repository that called it."""
    pointers = {"GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX", "GIT_OBJECT_DIRECTORY", "GIT_COMMON_DIR"}
    kept = {name: value for name, value in os.environ.items() if name not in pointers}
    quiet = {"GIT_TERMINAL_PROMPT": "0", "GIT_OPTIONAL_LOCKS": "0", "GIT_NO_LAZY_FETCH": "1", "GIT_PAGER": "cat"}
    return {**kept, **quiet, "LC_ALL": "C"}


def _refusal(folder: Path, command: str, complaint: str) -> RepositoryError:
    if "safe.directory" in complaint or "dubious ownership" in complaint:
        named = re.search(r"repository at '(.+?)'", complaint)
        place = named[1] if named else folder
        return RepositoryError(
            f"git refuses to look into {place}: it belongs to another user",
            hint=f"if you trust it: git config --global --add safe.directory '{place}'",
        )
    lines = complaint.strip().splitlines() or ["it gave no reason"]
    return RepositoryError(f"`git {command}` failed in {folder}: {lines[0]}", hint="look at it with: git status")


def _status(root: Path) -> tuple[_Head, tuple[str, ...], tuple[str, ...]]:
    """HEAD, changed and untracked files. Untracked files inside of submodules do not matter to anybody else."""
    options = ["--porcelain=v2", "--branch", "-z", "--untracked-files=normal", "--ignore-submodules=untracked"]
    fields = iter(git(root, "status", *options, "--no-renames").split("\0"))
    commit = branch = ""
    changed, untracked = [], []
    for row in fields:
        if row.startswith("# branch.oid "):
            commit = row.removeprefix("# branch.oid ").replace("(initial)", "")
        elif row.startswith("# branch.head "):
            branch = row.removeprefix("# branch.head ").replace("(detached)", "")
        elif row.startswith("1 "):
            changed.append(row.split(" ", 8)[8])
        elif row.startswith("u "):
            changed.append(row.split(" ", 10)[10])
        elif row.startswith("? "):
            untracked.append(row[2:])
    return _Head(commit, branch), tuple(changed), tuple(untracked)


def _choose_remote(root: Path, head: _Head) -> tuple[str, bool]:
    """The remote to fetch from, and whether one of its branches holds the commit: of those that hold it, or else of
    all, the one that the branch follows, then `origin`, then the first."""
    remotes = git(root, "remote").split()
    followed = _config(root, f"branch.{head.branch}.remote") if head.branch else ""
    ordered = sorted(remotes, key=lambda name: (name != followed, name != "origin"))
    if not ordered or not head.commit:
        return (ordered[0] if ordered else ""), False
    held = git(root, "for-each-ref", "--contains", head.commit, "--format=%(refname)", "refs/remotes").splitlines()
    for name in ordered:
        if any(reference.startswith(f"refs/remotes/{name}/") for reference in held):
            return name, True
    return ordered[0], False


def _config(root: Path, key: str) -> str:
    """A value of git's configuration; empty when it is not set."""
    return git(root, "config", "--default", "", "--get", key).strip()


def _url(root: Path, remote: str) -> str:
    """The address of a remote. A folder of this machine becomes a `file:` address: a relative one means nothing
    elsewhere."""
    if not remote:
        return ""
    url = git(root, "remote", "get-url", remote).strip()
    if "://" in url:
        return without_credentials(url)
    if _SCP.fullmatch(url) and not (root / url).exists():
        return url
    return (root / url).resolve().as_uri()


def _unpushed(root: Path, commit: str, remote: str) -> tuple[str, ...]:
    known = [f"--remotes={remote}"] if remote else []
    text = git(root, "log", "--format=%h %s", f"--max-count={UNPUSHED_SHOWN}", commit, "--not", *known)
    # A commit that is on no branch of the remote but below one of a tag: nothing is left, and yet nobody can fetch it.
    return tuple(text.splitlines()) or (commit[:7],)


def _submodule_faults(root: Path) -> Iterator[str]:
    if not (root / ".gitmodules").is_file():
        return
    for row in git(root, "ls-files", "--stage", "-z").split("\0"):
        mode, _, rest = row.partition(" ")
        if mode != "160000":
            continue
        details, _, name = rest.partition("\t")
        place, commit = root / name, details.split(" ")[0]
        if not (place / ".git").exists():
            continue  # never filled here: nothing of it can have been changed
        if not _held_by_remote(place, commit):
            yield f"the submodule {name} is at {commit[:7]}, which no branch of its remote holds"
        yield from (f"in {name}, {fault}" for fault in _submodule_faults(place))


def _held_by_remote(place: Path, commit: str) -> bool:
    try:
        return bool(git(place, "for-each-ref", "--contains", commit, "--count=1", "refs/remotes"))
    except RepositoryError:  # the commit is not even here
        return False


def shorten(names: Sequence[str], shown: int = 5) -> str:
    """`a, b, c and 4 more`."""
    rest = len(names) - shown
    return ", ".join(names[:shown]) + (f" and {rest} more" if rest > 0 else "")

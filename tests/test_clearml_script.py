"""What a task says about the code of a run, from real repositories."""

from __future__ import annotations

import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import pytest

from detloom import repository
from detloom.repository import find_repository
from detloom.specs import Package
from detloom_integrations.clearml import script as script_module
from detloom_integrations.clearml.script import DIFF_LIMIT, NO_REPOSITORY, Script, describe_script
from git_tools import commit, git, new_repository, push_to_bare, write
from script_tools import DETLOOM, LOCAL, installed, own, tracked

__all__ = ["installed", "own"]

# The SDK reads its configuration with a parser that its own dependency finds outdated.
pytestmark = pytest.mark.filterwarnings("ignore:.*deprecated(,| -) use:DeprecationWarning")

APPLE = Package("apple-tools", "1.2", "apple-tools @ git+https://git.example/apple.git@1f1f", "https://git.example")


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A clone of Detloom's repository, pushed, from which Detloom runs."""
    folder = tmp_path / "detloom"
    new_repository(folder, {"run_training.py": "", "core/detloom/__init__.py": "", ".gitignore": "runs/\n"})
    push_to_bare(folder, tmp_path / "detloom.git")
    monkeypatch.setattr(script_module, "own_checkout", lambda: folder)
    return folder


def head(folder: Path) -> str:
    return git(folder, "rev-parse", "HEAD")


def problem(script: Script) -> str:
    """The only one."""
    (sentence,) = script.problems
    return sentence


# --- the three cases ---


def test_a_checkout_is_its_repository_and_run_training(checkout: Path, tmp_path: Path) -> None:
    script = describe_script(tracked(None, DETLOOM, APPLE), tmp_path)
    assert script.problems == ()
    section = script.section
    pip = section.pop("requirements")["pip"].splitlines()
    assert section == {
        "binary": f"python{sys.version_info.major}.{sys.version_info.minor}",
        "repository": (tmp_path / "detloom.git").as_uri(),
        "branch": "main",
        "version_num": head(checkout),
        "entry_point": "run_training.py",
        "working_dir": ".",
        "diff": "",
    }
    assert APPLE.requirement in pip and any(line.startswith("torch==") for line in pip)
    assert not any(line.startswith("detloom") for line in pip)


def test_a_checkout_inside_of_a_larger_repository_is_started_in_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new_repository(tmp_path / "mono", {"parts/detloom/run_training.py": "", "README.md": ""})
    push_to_bare(tmp_path / "mono", tmp_path / "mono.git")
    monkeypatch.setattr(script_module, "own_checkout", lambda: tmp_path / "mono" / "parts" / "detloom")
    script = describe_script(tracked(), tmp_path)
    assert (script.working_dir, script.entry_point, script.problems) == ("parts/detloom", "run_training.py", ())


def test_an_installed_detloom_is_a_module_in_the_users_repository(own: Path, tmp_path: Path) -> None:
    script = describe_script(tracked(None, DETLOOM, APPLE), own / "work")
    assert (script.entry_point, script.working_dir, script.diff) == ("-m detloom", "work", "")
    assert (script.repository, script.version_num) == ((tmp_path / "fruit.git").as_uri(), head(own))
    assert {"detloom==0.1.0", APPLE.requirement} <= set(script.requirements)
    assert script.problems == ()


def test_without_a_repository_the_server_gets_a_text_that_is_no_code(installed: None, tmp_path: Path) -> None:
    script = describe_script(tracked(), tmp_path)
    assert (script.entry_point, script.repository, script.diff, script.problems) == (
        "-m detloom",
        "",
        NO_REPOSITORY,
        (),
    )
    assert all(line.startswith("#") for line in script.diff.splitlines())


def test_a_package_that_exists_only_here_is_a_comment_and_a_problem(installed: None, tmp_path: Path) -> None:
    script = describe_script(tracked(None, DETLOOM, LOCAL), tmp_path)
    assert "# pear-tools 3.4 exists only in /home/bob/pear" in script.requirements
    assert "pear-tools 3.4, which brings pear, plum, was installed from /home/bob/pear" in problem(script)
    assert "pip install 'pear-tools @ git+" in problem(script)


def test_a_requirement_that_the_agent_would_cut_short_is_written_without_its_name(
    installed: None, tmp_path: Path
) -> None:
    with warnings.catch_warnings():  # the agent's own dependencies complain about each other
        warnings.simplefilter("ignore")
        from clearml_agent.helper.package.requirements import RequirementsManager

    sources = ("git+file:///srv/pear.git@1f1f#subdirectory=p", "git+https://git.example/pear.git@1f1f#subdirectory=p")
    for source in sources:
        pear = replace(LOCAL, requirement=f"pear-tools @ {source}")
        *_, line = describe_script(tracked(None, DETLOOM, pear), tmp_path).requirements
        (read,) = RequirementsManager.parse_requirements_section_to_marker_requirements(line)
        assert str(read) == source


def test_an_installed_detloom_that_exists_only_here_is_a_problem(installed: None, tmp_path: Path) -> None:
    script = describe_script(tracked(None, replace(DETLOOM, requirement="", where="/home/bob/d.whl")), tmp_path)
    assert problem(script).startswith("detloom 0.1.0 was installed from /home/bob/d.whl")


# --- the state of a repository ---


def test_uncommitted_changes_are_kept_and_can_be_applied(own: Path, tmp_path: Path) -> None:
    (own / "picture.bin").write_bytes(bytes(range(256)))
    commit(own)
    git(own, "push", "--quiet")
    write(own, {"README.md": "fruit\nand more\n"})
    (own / "picture.bin").write_bytes(bytes(reversed(range(256))))
    script = describe_script(tracked(), own)
    assert "uncommitted changes: README.md, picture.bin" in problem(script)
    git(tmp_path, "clone", "--quiet", tmp_path / "fruit.git", "elsewhere")
    write(tmp_path, {"change.diff": script.diff})
    git(tmp_path / "elsewhere", "apply", "--unidiff-zero", tmp_path / "change.diff")
    for name in ("README.md", "picture.bin"):
        assert (tmp_path / "elsewhere" / name).read_bytes() == (own / name).read_bytes()


def test_the_users_own_settings_of_git_do_not_get_into_the_diff(own: Path) -> None:
    for key, value in (("color.ui", "always"), ("diff.noprefix", "true"), ("diff.external", "false")):
        git(own, "config", key, value)
    write(own, {"README.md": "changed\n"})
    assert describe_script(tracked(), own).diff.startswith("diff --git a/README.md b/README.md\n")


def test_a_diff_that_is_too_large_is_replaced_by_one_that_no_agent_applies(own: Path) -> None:
    write(own, {"README.md": "long line\n" * (DIFF_LIMIT // 10 + 1)})
    script = describe_script(tracked(), own)
    assert any("and a task keeps 500,000" in sentence for sentence in script.problems)
    assert script.diff.lower().startswith("diff ")  # else an agent would take it for a script
    assert "Empty this section" in script.diff
    done = subprocess.run(["git", "apply"], input=script.diff, cwd=own, text=True, capture_output=True, check=False)
    assert done.returncode != 0


def test_changes_that_are_no_text_are_not_cut_short(own: Path) -> None:
    (own / "README.md").write_bytes(b"caf\xe9\n")
    script = describe_script(tracked(), own)
    assert any("no UTF-8 text" in sentence for sentence in script.problems)
    assert "Empty this section" in script.diff


def test_commits_that_were_not_pushed_are_named(own: Path) -> None:
    commit(own, {"a": ""}, "Ripe apples")
    commit(own, {"b": ""}, "Ripe pears")
    sentence = problem(describe_script(tracked(), own))
    assert "its newest commits are on no branch" in sentence and "git push" in sentence
    assert "Ripe apples" in sentence and "Ripe pears" in sentence and "work" not in sentence.replace(str(own), "")


def test_a_commit_that_another_branch_of_the_remote_holds_was_pushed(own: Path) -> None:
    git(own, "checkout", "--quiet", "-b", "topic")
    script = describe_script(tracked(), own)
    assert (script.branch, script.problems) == ("topic", ())


def test_of_several_remotes_the_one_that_holds_the_commit_counts(own: Path, tmp_path: Path) -> None:
    commit(own, {"a": ""})
    push_to_bare(own, tmp_path / "fork.git", "fork")
    script = describe_script(tracked(), own)
    assert (script.repository, script.problems) == ((tmp_path / "fork.git").as_uri(), ())


def test_a_repository_without_a_remote_leaves_the_module_alone(tmp_path: Path, installed: None) -> None:
    new_repository(tmp_path / "fruit")
    script = describe_script(tracked(), tmp_path / "fruit")
    assert (script.repository, script.diff) == ("", NO_REPOSITORY)
    assert "has no remote" in problem(script) and "git remote add origin" in problem(script)


def test_a_checkout_without_a_remote_becomes_a_script_that_says_so(checkout: Path, tmp_path: Path) -> None:
    git(checkout, "remote", "remove", "origin")
    script = describe_script(tracked(), checkout)
    assert "has no remote" in problem(script)
    write(tmp_path, {script.entry_point: script.diff})
    done = subprocess.run([sys.executable, tmp_path / script.entry_point], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "this task cannot be executed: the repository" in done.stderr


def test_a_checkout_that_is_no_repository_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, {"unpacked/run_training.py": ""})
    monkeypatch.setattr(script_module, "own_checkout", lambda: tmp_path / "unpacked")
    assert "is in no git repository" in problem(describe_script(tracked(), tmp_path))


def test_a_checkout_that_the_repository_around_it_ignores_is_in_none(
    own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit(own, {".gitignore": "unpacked/\n"})
    write(own, {"unpacked/run_training.py": ""})
    monkeypatch.setattr(script_module, "own_checkout", lambda: own / "unpacked")
    assert "is in no git repository" in problem(describe_script(tracked(), own))


def test_a_repository_without_a_commit_is_a_problem(tmp_path: Path, installed: None) -> None:
    git(tmp_path, "init", "--quiet", "new")
    script = describe_script(tracked(), tmp_path / "new")
    assert "has no commit yet" in problem(script) and script.diff == NO_REPOSITORY


def test_a_detached_head_is_its_commit(own: Path) -> None:
    first = head(own)
    commit(own, {"a": ""})
    git(own, "push", "--quiet")
    git(own, "checkout", "--quiet", "--detach", first)
    script = describe_script(tracked(), own)
    assert (script.branch, script.version_num, script.problems) == ("", first, ())


def test_a_shallow_clone_knows_that_its_commit_was_pushed(own: Path, tmp_path: Path) -> None:
    commit(own, {"a": ""})
    git(own, "push", "--quiet")
    git(tmp_path, "clone", "--quiet", "--depth", "1", (tmp_path / "fruit.git").as_uri(), "shallow")
    script = describe_script(tracked(), tmp_path / "shallow")
    assert (script.version_num, script.problems) == (head(own), ())


def test_a_second_work_tree_is_a_repository_like_any(own: Path, tmp_path: Path) -> None:
    git(own, "worktree", "add", "--quiet", "-b", "topic", tmp_path / "second")
    commit(tmp_path / "second", {"a": ""})
    script = describe_script(tracked(), tmp_path / "second")
    assert script.version_num == head(tmp_path / "second")
    assert "was not pushed" in problem(script)


def test_submodules_must_be_pushed_as_well(own: Path, tmp_path: Path) -> None:
    new_repository(tmp_path / "pear")
    push_to_bare(tmp_path / "pear", tmp_path / "pear.git")
    git(own, "submodule", "--quiet", "add", (tmp_path / "pear.git").as_uri(), "pear")
    commit(own)
    git(own, "push", "--quiet")
    assert describe_script(tracked(), own).problems == ()

    write(own / "pear", {"scratch.txt": "of no interest to anybody"})
    assert describe_script(tracked(), own).problems == ()
    changed = commit(own / "pear", {"new.py": ""})
    assert "uncommitted changes: pear" in problem(describe_script(tracked(), own))
    commit(own)
    git(own, "push", "--quiet")
    assert f"the submodule pear is at {changed[:7]}" in problem(describe_script(tracked(), own))


def test_a_current_folder_that_no_clone_will_have_is_a_problem(own: Path) -> None:
    (own / "scratch").mkdir()
    script = describe_script(tracked(), own / "scratch")
    assert script.working_dir == "." and "the current folder scratch is not in the last commit" in problem(script)


def test_files_of_detloom_that_git_does_not_know_are_a_problem(checkout: Path) -> None:
    write(checkout, {"notes.txt": "", "core/detloom/new.py": "", "runs/one/run.json": ""})
    assert "git does not know these files of Detloom: core/detloom/new.py;" in problem(
        describe_script(tracked(), checkout)
    )


def test_a_repository_of_another_user_is_a_problem_with_its_remedy(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")  # git's own switch for its tests
    sentence = problem(describe_script(tracked(), own))
    assert "it belongs to another user" in sentence
    assert f"git config --global --add safe.directory '{own}'" in sentence


def test_without_git_a_repository_is_a_problem_and_a_plain_folder_is_none(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "git is not installed" in problem(describe_script(tracked(), own))
    assert describe_script(tracked(), tmp_path).problems == ()


def test_a_git_that_hangs_is_given_up(own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, {"bin/git": "#!/bin/sh\nexec sleep 30\n"})
    (tmp_path / "bin" / "git").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    monkeypatch.setattr(repository, "TIMEOUT_S", 0.5)
    assert "did not end within 0.5 s" in problem(describe_script(tracked(), own))


def test_a_hook_of_git_does_not_make_us_look_into_another_repository(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new_repository(tmp_path / "other")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "other" / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(tmp_path / "other"))
    found = find_repository(own)
    assert found is not None and found.root == own


@pytest.mark.parametrize(
    ("written", "recorded"),
    [
        ("https://bob:s3cret@git.example/fruit.git", "https://git.example/fruit.git"),
        ("https://ghp_token@git.example/fruit.git?token=1", "https://git.example/fruit.git"),
        ("ssh://git:s3cret@git.example:22/fruit.git", "ssh://git@git.example:22/fruit.git"),
        ("git@git.example:fruit.git", "git@git.example:fruit.git"),
    ],
)
def test_the_credentials_of_a_remote_are_not_recorded(own: Path, written: str, recorded: str) -> None:
    git(own, "remote", "set-url", "origin", written)
    assert describe_script(tracked(), own).repository == recorded


def test_a_remote_given_as_a_relative_path_is_recorded_as_a_whole_one(own: Path, tmp_path: Path) -> None:
    git(own, "remote", "set-url", "origin", "../fruit.git")
    assert describe_script(tracked(), own).repository == (tmp_path / "fruit.git").as_uri()

"""The scripts: valid, executable, free of addresses, and clear about what a bare machine lacks."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
SCRIPTS = [
    f"scripts/{path.name}"
    for path in sorted((ROOT / "scripts").iterdir())
    if path.is_file() and os.access(path, os.X_OK)
]
GOES_ON = "scripts/gpu"  # what comes after a failure may still be had from a machine that is lent


@pytest.mark.parametrize("script", [*SCRIPTS, "scripts/_env", ".ci/run"])
def test_scripts_are_valid_shell_without_addresses(script: str) -> None:
    subprocess.run(["bash", "-n", str(ROOT / script)], check=True)
    text = (ROOT / script).read_text()
    assert not re.search(r"https?://|index-url|find-links", text)


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_say_what_they_do_and_do_nothing_when_asked_for_help(script: str) -> None:
    ran = subprocess.run([ROOT / script, "--help"], capture_output=True, text=True, check=True, timeout=120)
    assert len(ran.stdout) > 40
    assert not ran.stdout.startswith("#")


@pytest.mark.parametrize("script", [each for each in (*SCRIPTS, ".ci/run") if each != GOES_ON])
def test_scripts_stop_at_the_first_failure_and_can_be_executed(script: str) -> None:
    assert "set -euo pipefail" in (ROOT / script).read_text()
    assert os.access(ROOT / script, os.X_OK)


def test_constraints_name_packages_and_versions_only() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    assert len(lines) > 50
    assert [line for line in lines if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9._!-]+", line)] == []
    assert lines == sorted(lines, key=str.lower)


def in_environment(code: str, tmp_path: Path, *, path: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a function of scripts/_env in a copy of the scripts, with nothing but `path` to find programs in."""
    scripts = tmp_path / "scripts"
    scripts.mkdir(exist_ok=True)
    (scripts / "_env").write_text((ROOT / "scripts" / "_env").read_text())
    return subprocess.run(
        ["/bin/bash", "-c", f"set -euo pipefail; . {scripts}/_env; {code}"],
        capture_output=True, text=True, check=False, env={"PATH": path, "HOME": str(tmp_path), **variables},
    )  # fmt: skip


def fake(folder: Path, name: str, body: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/bash\n{body}\n")
    (folder / name).chmod(0o755)


def test_a_machine_without_a_new_python_is_told_what_to_install(tmp_path: Path) -> None:
    fake(tmp_path / "bin", "python3", "exit 1")  # too old, by its own word
    (tmp_path / "bin" / "dirname").symlink_to("/usr/bin/dirname")
    ran = in_environment("find_python", tmp_path, path=str(tmp_path / "bin"))
    assert ran.returncode == 1
    assert ran.stderr.startswith("keepsight: Python 3.11 or newer is needed and none was found")


def test_a_shim_that_does_not_run_is_passed_over(tmp_path: Path) -> None:
    fake(tmp_path / "bin", "python3.11", "echo 'command not found' >&2; exit 127")
    fake(tmp_path / "bin", "python3.12", "exit 0")
    ran = in_environment("find_python", tmp_path, path=f"{tmp_path / 'bin'}:/usr/bin:/bin")
    assert (ran.returncode, ran.stdout) == (0, "python3.12\n")


def test_a_named_python_comes_first(tmp_path: Path) -> None:
    fake(tmp_path / "bin", "mine", "exit 0")
    ran = in_environment("find_python", tmp_path, path=f"{tmp_path / 'bin'}:/usr/bin:/bin", KEEPSIGHT_PYTHON="mine")
    assert ran.stdout == "mine\n"


INSTALLING = """
make_environment() { mkdir -p "$VENV/bin"; ln -sf "$REAL" "$VENV/bin/python"; echo made >>"$ROOT/log"; }
has_pip() { [ -e "$VENV/bin/python" ]; }
"""


def test_installing_is_done_once_for_each_state_of_the_files(tmp_path: Path) -> None:
    real = tmp_path / "fake-python"
    install = 'echo installed >>"$ROOTLOG"; [ ! -e "$ROOTLOG.fail" ]'
    body = f'case "$*" in *"pip install"*) {install};; *) exec python3 "$@";; esac'
    fake(tmp_path, real.name, body)
    version = tmp_path / "keepsight" / "client" / "__init__.py"
    version.parent.mkdir(parents=True)
    projects = (tmp_path / "pyproject.toml", version.with_name("pyproject.toml"))
    for path in (*projects, version, tmp_path / "constraints.txt"):
        path.write_text("a")
    log = tmp_path / "log"

    def setup() -> int:
        code = f"{INSTALLING} ensure_environment"
        path = os.environ["PATH"]
        return in_environment(code, tmp_path, path=path, REAL=str(real), ROOTLOG=str(log)).returncode

    assert (setup(), log.read_text().split()) == (0, ["made", "installed"])
    assert (setup(), log.read_text().split()) == (0, ["made", "installed"])
    (tmp_path / "constraints.txt").write_text("b")
    (tmp_path / "log.fail").touch()
    assert setup() == 1
    (tmp_path / "log.fail").unlink()
    assert (setup(), log.read_text().split()) == (0, ["made", "installed", "installed", "installed"])
    for path in (*projects, version):
        installed = log.read_text().count("installed")
        path.write_text("b")
        assert (setup(), setup(), log.read_text().count("installed")) == (0, 0, installed + 1), path


def test_a_failed_test_run_fails_ci(tmp_path: Path) -> None:
    for folder in (".ci", "scripts"):
        (tmp_path / folder).mkdir()
    ci = tmp_path / ".ci" / "run"
    ci.write_text((ROOT / ".ci" / "run").read_text())
    demo_ran = tmp_path / "demo-ran"
    fake(tmp_path / "scripts", "demo", f'echo "$@" >{demo_ran}; exit 4')
    fake(tmp_path / "scripts", "test", "exit 3")
    assert subprocess.run(["/bin/bash", str(ci)], check=False).returncode == 3
    assert not demo_ran.exists()
    fake(tmp_path / "scripts", "test", "exit 0")
    assert subprocess.run(["/bin/bash", str(ci)], check=False).returncode == 4
    assert demo_ran.read_text() == "--short --exit\n"


FAKE_ENVIRONMENT = """
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
VENV=$ROOT
say() { :; }
ensure_environment() { echo environment; }
"""


def ran_by_test(tmp_path: Path, *arguments: str) -> list[str]:
    """What scripts/test runs, in order: the programs' names, and pytest's arguments one by one."""
    (tmp_path / "scripts").mkdir(exist_ok=True)
    (tmp_path / "scripts" / "_env").write_text(FAKE_ENVIRONMENT)
    fake(tmp_path / "scripts", "check", "echo check")
    fake(tmp_path / "bin", "ruff", 'echo "ruff $1"')
    fake(tmp_path / "bin", "python", 'printf "%s\\n" "$@"')
    script = tmp_path / "scripts" / "test"
    script.write_text((ROOT / "scripts" / "test").read_text())
    done = subprocess.run(["/bin/bash", str(script), *arguments], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


@pytest.mark.parametrize("arguments", [(), ("--coverage",)])
def test_the_whole_suite_is_checked_and_its_reach_measured_if_that_is_asked_for(
    tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    said = ran_by_test(tmp_path, *arguments)
    assert said[:3] == ["check", "-m", "pytest"]
    measured = ["--cov", "--cov-report=term:skip-covered"] if arguments else []
    assert [word for word in said if word.startswith("--cov")] == measured
    end = ["--dist", "loadfile", *measured]  # a file's tests in one process, and nothing is run after it
    assert said[-len(end) :] == end
    assert "-m" not in said[3:]  # none is left out


FAILS_ONCE = """
case "$*" in
    *_failed*) exec PYTHON "$@" ;;
    *--numprocesses*) exit 1 ;;
    *--last-failed*) echo alone; exit ALONE ;;
    *coverage*) echo reached >&2; exit REACHED ;;
esac
"""


@pytest.mark.parametrize(
    ("arguments", "failed", "alone", "reached", "status", "said"),
    [
        ([], ["a.py::x", "b.py::y"], 0, 0, 0, ["check", "alone"]),
        (["--coverage"], ["a.py::x", "b.py::y"], 0, 0, 0, ["check", "alone", "reached"]),
        ([], ["a.py::x"], 1, 0, 1, ["check", "alone"]),
        (["--coverage"], ["a.py::x"], 0, 2, 1, ["check", "alone", "reached"]),
        ([], [f"{name}.py::x" for name in "abcdefg"], 0, 0, 1, ["check"]),
        (["--coverage"], [], 0, 0, 1, ["check"]),  # too little was reached
    ],
)
def test_a_few_tests_that_failed_in_a_crowd_are_run_again_alone(
    tmp_path: Path, arguments: list[str], failed: list[str], alone: int, reached: int, status: int, said: list[str]
) -> None:
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts" / "_env").write_text(FAKE_ENVIRONMENT + 'die() { echo "$*" >&2; exit 1; }\n')
    (tmp_path / "scripts" / "_failed.py").write_text((ROOT / "scripts" / "_failed.py").read_text())
    fake(tmp_path / "scripts", "check", "echo check")
    steps = FAILS_ONCE.replace("PYTHON", sys.executable).replace("ALONE", str(alone)).replace("REACHED", str(reached))
    fake(tmp_path / "bin", "python", steps)
    cache = tmp_path / ".pytest_cache" / "v" / "cache"
    cache.mkdir(parents=True)
    (cache / "lastfailed").write_text(json.dumps(dict.fromkeys(failed, True)))
    script = tmp_path / "scripts" / "test"
    script.write_text((ROOT / "scripts" / "test").read_text())
    command = ["/bin/bash", str(script), *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    ran = [word for word in done.stdout.split() if word in ("check", "alone", "reached")]
    assert (done.returncode, ran) == (status, said)


def test_arguments_of_the_test_script_are_pytests(tmp_path: Path) -> None:
    assert ran_by_test(tmp_path, "tests/unit", "-k", "a or b") == [
        "check",
        "-m",
        "pytest",
        "tests/unit",
        "-k",
        "a or b",
    ]


def test_the_fast_tests_leave_out_what_is_slow(tmp_path: Path) -> None:
    said = ran_by_test(tmp_path, "--fast", "-k", "a or b")
    assert said[:4] == ["environment", "ruff check", "-m", "pytest"]
    assert said[-2:] == ["-k", "a or b"]
    assert "not slow" in said
    assert "testpaths=tests/unit tests/docs" in said
    assert not any(word.startswith("--cov") for word in said)


def test_help_says_what_the_fast_tests_leave_out(tmp_path: Path) -> None:
    said = "\n".join(ran_by_test(tmp_path, "--help"))
    assert "scripts/test --fast" in said
    assert "no types" in said
    assert "environment" not in said

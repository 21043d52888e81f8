from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile

import pytest

from app import spawner

PYTHON = (sys.executable, "-I", "-S", "-c")
ENV = {"PATH": os.defpath}


def test_a_process_has_its_arguments_and_environment_and_low_priority() -> None:
    code = (
        "import os, sys; sys.stdin.read(); "
        "print(sys.argv[1:], sorted(os.environ.items()), os.getpriority(os.PRIO_PROCESS, 0))"
    )
    words = ["a b", "\u00e4"]
    env = {"NAME": "v\u00e4lue", "LC_CTYPE": "C.UTF-8"}
    with spawner.start([*PYTHON, code, *words], env=env, stdin=True) as process:
        assert process.stdin is not None
        process.stdin.close()  # it has its priority by now
        said = process.stdout.read().decode()
        assert process.wait() == 0
    assert said == f"{words} {sorted(env.items())} 10\n"


def test_a_process_has_the_files_that_are_passed_and_no_others() -> None:
    code = """if True:
        import os, sys
        def opened(number):
            try:
                return bool(os.fstat(number))
            except OSError:
                return False
        os.write(int(sys.argv[1]), b"seen")
        print([number for number in range(3, 200) if opened(number)])
    """
    with tempfile.TemporaryFile() as passed, tempfile.TemporaryFile() as another:
        os.set_inheritable(another.fileno(), True)  # as is a socket that the server was started with
        command = [*PYTHON, code, str(passed.fileno())]
        with spawner.start(command, env=ENV, pass_fds=[passed.fileno()]) as process:
            assert process.stdout.read().decode() == f"[{passed.fileno()}]\n"
        passed.seek(0)
        assert passed.read() == b"seen"
        assert not os.get_inheritable(passed.fileno())


@pytest.mark.parametrize("stdin", [False, True])
def test_a_process_reads_nothing_until_its_pipe_is_closed(stdin: bool) -> None:
    with spawner.start([*PYTHON, "import sys; print(sys.stdin.read(), flush=True)"], env=ENV, stdin=stdin) as process:
        assert (process.stdin is not None) is stdin
        if process.stdin is not None:
            process.stdin.write(b"told")
            process.stdin.close()
        assert process.stdout.read() == (b"told\n" if stdin else b"\n")


def test_what_a_quiet_process_complains_of_goes_nowhere(capfd: pytest.CaptureFixture[str]) -> None:
    for quiet in (True, False):
        with spawner.start([*PYTHON, "import os; os.write(2, b'oh')"], env=ENV, quiet=quiet) as process:
            assert process.stdout.read() == b""
        assert capfd.readouterr().err == ("" if quiet else "oh")


def test_a_process_that_is_left_is_gone() -> None:
    with spawner.start([*PYTHON, "import time; time.sleep(600)"], env=ENV) as process:
        assert process.stdin is None
    assert process.wait() == -signal.SIGKILL
    with pytest.raises(ProcessLookupError):
        os.kill(process.pid, 0)
    process.kill()  # nobody: the id may be another's by now


def test_the_status_of_a_process_is_told() -> None:
    with spawner.start([*PYTHON, "raise SystemExit(3)"], env=ENV) as process:
        assert process.stdout.read() == b""
        assert process.wait() == 3


def test_what_cannot_be_started_is_an_error_and_leaves_no_file_open() -> None:
    before = sorted(os.listdir("/proc/self/fd"))
    with pytest.raises(FileNotFoundError):
        spawner.start(["/no/such/program"], env=ENV, stdin=True)
    with pytest.raises(ValueError, match="null byte"):
        spawner.start([*PYTHON, "\0"], env=ENV)
    assert sorted(os.listdir("/proc/self/fd")) == before


def test_a_server_without_standard_files_gives_its_processes_theirs() -> None:
    """The pipes of the process would have the numbers of the missing files."""
    code = """if True:
        import os, sys
        from app import spawner
        out = os.dup(1)
        for number in (0, 1, 2):
            os.close(number)
        child = "import os; os.write(1, os.read(0, 9)); os.write(2, b'lost')"
        process = spawner.start([sys.executable, "-I", "-S", "-c", child], env={}, stdin=True, quiet=True)
        process.stdin.write(b"heard")
        process.stdin.close()
        os.write(out, process.stdout.read() + b" %d" % process.wait())
        os._exit(0)
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60)
    assert done.stdout == b"heard 0", done.stderr

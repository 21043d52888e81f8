"""Parts that live and die together, with small real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from keepsight.local.errors import StartError
from keepsight.local.signs import Listener
from keepsight.local.supervisor import Part, Running, Supervisor, our_environment, waited_for_processor_s
from tests.waiting import wait_until

SLEEPER = "import time; print('up', flush=True); time.sleep(60)"
STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
PARENT = "import subprocess, sys; p = subprocess.Popen(['sleep', '60']); print(p.pid, flush=True); p.wait()"


def python(name: str, code: str, folder: Path, *, grace_s: float = 5.0, stop_last: bool = False) -> Part:
    return Part(
        name, (sys.executable, "-c", code), folder / f"{name}.log", {"MARK": name}, grace_s=grace_s, stop_last=stop_last
    )


def alive(pid: int) -> bool:
    """Whether a process runs; one that has died and was not waited for yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def test_output_and_environment_reach_the_log(tmp_path: Path) -> None:
    part = python("talker", "import os, sys; print(os.environ['MARK']); print('two', file=sys.stderr)", tmp_path)
    with Supervisor() as supervisor:
        running = supervisor.start(part)
        running.process.wait(10)
        assert running.log_tail().split() == ["talker", "two"]


def test_the_log_of_an_earlier_run_is_kept_but_not_quoted(tmp_path: Path) -> None:
    part = python("talker", "print('new')", tmp_path)
    part.log.write_text("old\n")
    with Supervisor() as supervisor:
        running = supervisor.start(part)
        running.process.wait(10)
        assert running.log_tail() == "new"
    assert part.log.read_text() == "old\nnew\n"


def test_a_part_that_ends_by_itself_is_named_with_its_last_words(tmp_path: Path) -> None:
    with Supervisor() as supervisor:
        supervisor.start(python("sleeper", SLEEPER, tmp_path))
        broken = supervisor.start(python("broken", "import sys; print('line'); sys.exit('the disk is gone')", tmp_path))
        broken.process.wait(10)
        with pytest.raises(
            StartError, match=r"the broken ended with exit code 1; its log, .*broken\.log, ends:"
        ) as told:
            supervisor.check()
    assert "the disk is gone" in str(told.value)


def test_a_part_that_was_killed_is_said_to_be_killed(tmp_path: Path) -> None:
    with Supervisor() as supervisor:
        running = supervisor.start(python("sleeper", SLEEPER, tmp_path))
        running.process.kill()
        running.process.wait(10)
        with pytest.raises(StartError, match="the sleeper was killed by SIGKILL"):
            supervisor.check()


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def end(supervisor: Supervisor, name: str) -> int:
    """Kill a part, wait until it has ended, and return its process id."""
    (running,) = [running for running in supervisor.running if running.part.name == name]
    running.process.kill()
    running.process.wait(10)
    return running.process.pid


def test_a_part_that_lived_long_is_started_again_at_once(tmp_path: Path) -> None:
    clock, told = Clock(), list[str]()
    with Supervisor(tell=told.append, clock=clock) as supervisor:
        other = supervisor.start(python("other", SLEEPER, tmp_path))
        supervisor.start(python("mortal", SLEEPER, tmp_path))
        assert supervisor.tend() is False
        clock.now = 1000.0
        first = end(supervisor, "mortal")
        assert supervisor.tend() is True
        (second,) = [running for running in supervisor.running if running.part.name == "mortal"]
        assert alive(second.process.pid)
        assert second.process.pid != first
        assert other.exit_code is None
    assert len(told) == 1
    assert "the mortal was killed by SIGKILL" in told[0]
    assert "started again now" in told[0]


def test_one_that_keeps_ending_waits_longer_each_time_and_is_told_of_once(tmp_path: Path) -> None:
    clock, told, pauses = Clock(), list[str](), list[float]()
    with Supervisor(tell=told.append, clock=clock) as supervisor:
        supervisor.start(python("mortal", SLEEPER, tmp_path))
        for _ in range(7):
            end(supervisor, "mortal")
            ended = clock.now
            while not supervisor.tend():
                clock.now += 0.5
            pauses.append(clock.now - ended)
        assert pauses == [1, 2, 4, 8, 16, 30, 30]
        assert len(told) == 1
        clock.now += 100
        supervisor.tend()
        supervisor.tend()
        assert told[1:] == ["keepsight: the mortal runs again."]
        end(supervisor, "mortal")
        supervisor.tend()
        assert "the mortal was killed by SIGKILL" in told[2]


def test_a_part_that_cannot_be_started_again_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, told = Clock(), list[str]()
    with Supervisor(tell=told.append, clock=clock) as supervisor:
        supervisor.start(python("mortal", SLEEPER, tmp_path))
        clock.now = 1000.0
        end(supervisor, "mortal")
        with monkeypatch.context() as patch:

            def no_process_left(part: Part) -> Running:
                raise BlockingIOError(11, "Resource temporarily unavailable")

            patch.setattr("keepsight.local.supervisor.Running", no_process_left)
            for _ in range(100):
                assert supervisor.tend() is False
                clock.now += 0.5
        clock.now += 30
        assert supervisor.tend() is True
    assert len(told) == 2
    assert "cannot be started now: [Errno 11] Resource temporarily unavailable" in told[1]


BEATING = """
import os, time
while True:
    os.write(int(os.environ["KEEPSIGHT_SIGNS_FD"]), b"\\n")
    time.sleep(0.05)
"""


def silent(supervisor: Supervisor, clock: Clock, seconds: int) -> None:
    """Let a part's silence last, as its supervisor sees it."""
    for _ in range(seconds):
        clock.now += 1
        supervisor.tend()


def hear(supervisor: Supervisor, running: Running) -> None:
    """Wait for a sign of life, while time stands still."""
    wait_until(lambda: supervisor.tend() is False and running.signs.silent_s == 0 and running.signs.heard)


def test_a_part_that_hangs_is_killed_and_started_again(tmp_path: Path) -> None:
    clock, told = Clock(), list[str]()
    with Supervisor(tell=told.append, clock=clock) as supervisor:
        running = supervisor.start(python("beating", BEATING, tmp_path))
        hear(supervisor, running)
        running.process.send_signal(signal.SIGSTOP)
        wait_until(lambda: supervisor.tend() is False and not running.signs.look(clock.now))
        silent(supervisor, clock, 9)
        assert running.exit_code is None
        silent(supervisor, clock, 3)
        running.process.wait(10)

        def started_again() -> (
            bool
        ):  # its end is seen at one look, and its pause begins there; maybe it is over already
            clock.now += 1
            supervisor.tend()
            return supervisor.running[0] is not running

        wait_until(started_again)
        assert supervisor.running[0].process.pid != running.process.pid
    assert "the beating has given no sign of life for 10 s; it is killed" in told[0]
    assert "the beating was killed by SIGKILL" in told[1]


def test_a_part_that_is_waited_for_is_not_killed_when_it_hangs(tmp_path: Path) -> None:
    clock, told = Clock(), list[str]()
    with Supervisor(tell=told.append, clock=clock) as supervisor:
        running = supervisor.start(replace(python("beating", BEATING, tmp_path), waited_for=True))
        hear(supervisor, running)
        running.process.send_signal(signal.SIGSTOP)
        wait_until(lambda: supervisor.tend() is False and not running.signs.look(clock.now))
        silent(supervisor, clock, 600)
        assert running.exit_code is None
        running.process.send_signal(signal.SIGCONT)
        wait_until(lambda: supervisor.tend() is False and len(told) == 2)
    assert "for 10 s; it is waited for" in told[0]
    assert told[1] == "keepsight: the beating answers again."


def test_a_part_that_takes_long_to_start_does_not_count_as_hanging(tmp_path: Path) -> None:
    clock, told = Clock(), list[str]()
    with Supervisor(tell=told.append, clock=clock) as supervisor:
        running = supervisor.start(python("sleeper", SLEEPER, tmp_path))
        silent(supervisor, clock, 290)
        assert (running.exit_code, told) == (None, [])
        silent(supervisor, clock, 20)  # it may have been stopped before it was ready
        assert running.process.wait(10) == -signal.SIGKILL
    assert "the sleeper has given no sign of life for 300 s; it is killed" in told[0]


def test_a_part_that_waits_for_a_processor_is_not_taken_for_one_that_hangs() -> None:
    listener = Listener()
    listener.look(0.0)
    for second in range(1, 30):
        listener.look(float(second), waited_s=0.9 * second)
    assert 2 < listener.silent_s < 4
    for second in range(30, 40):  # it does not even wait any more, as one that was stopped
        listener.look(float(second), waited_s=0.9 * 29)
    assert listener.silent_s > 12
    listener.close_writer()
    listener.close()


def test_the_time_that_a_process_waits_for_a_processor_is_the_kernels(tmp_path: Path) -> None:
    busy = "while True: pass"
    with Supervisor() as supervisor:
        kept = [supervisor.start(python(f"busy-{n}", busy, tmp_path)) for n in range((os.cpu_count() or 1) + 1)]
        wait_until(lambda: sum(waited_for_processor_s(running.process.pid) for running in kept) > 0.1)
    assert waited_for_processor_s(kept[0].process.pid) == 0  # it is gone


def test_a_supervisor_that_was_stopped_itself_takes_nobody_for_hanging(tmp_path: Path) -> None:
    clock, told = Clock(), list[str]()
    with Supervisor(tell=told.append, clock=clock) as supervisor:
        running = supervisor.start(python("beating", BEATING, tmp_path))
        hear(supervisor, running)
        running.process.send_signal(signal.SIGSTOP)  # the whole machine slept
        clock.now += 3600
        supervisor.tend()
        clock.now += 1
        supervisor.tend()
        assert running.exit_code is None
    assert told == []


def test_what_a_part_has_to_say_is_told_even_if_it_ends_with_that(tmp_path: Path) -> None:
    told = list[str]()
    code = "import os; os.write(int(os.environ['KEEPSIGHT_SIGNS_FD']), b'\\nthe data was damaged\\n')"
    with Supervisor(tell=told.append) as supervisor:
        supervisor.start(python("speaker", code, tmp_path)).process.wait(10)
        supervisor.tend()
    assert told[0] == "keepsight: the data was damaged"


def test_a_part_starts_without_a_log_where_none_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("no folder")
    witness = tmp_path / "witness"
    part = Part("part", (sys.executable, "-c", f"print('x'); open({str(witness)!r}, 'w')"), tmp_path / "log" / "x.log")
    with Supervisor() as supervisor:
        running = supervisor.start(part)
        assert running.process.wait(10) == 0
        assert running.log_tail() == ""
        with pytest.raises(StartError, match="the part ended with exit code 0"):
            supervisor.check()
    assert witness.exists()


def test_a_stopped_part_ends_by_itself_when_it_is_asked_to(tmp_path: Path) -> None:
    supervisor = Supervisor()
    running = supervisor.start(python("sleeper", SLEEPER, tmp_path, grace_s=30))
    wait_until(lambda: running.log_tail() == "up")
    running.process.send_signal(signal.SIGSTOP)
    assert supervisor.stop() == []
    assert running.exit_code == -signal.SIGTERM


def test_our_packages_come_before_those_that_the_user_put_on_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", f"/their/project:.::{Path.cwd()}:/else")
    first, *others = our_environment()["PYTHONPATH"].split(":")
    assert (Path(first) / "keepsight" / "local" / "supervisor.py").exists()
    assert others == ["/their/project", "/else"]  # the working directory is theirs by every name
    monkeypatch.delenv("PYTHONPATH")
    assert "PYTHONPATH" not in our_environment()


def test_a_program_that_does_not_exist_is_a_part_that_ended(tmp_path: Path) -> None:
    with Supervisor() as supervisor:
        running = supervisor.start(Part("ghost", ("no-such-program",), tmp_path / "ghost.log"))
        running.process.wait(10)
        with pytest.raises(StartError, match="no-such-program: No such file"):
            supervisor.check()


def test_waiting_ends_when_ready_when_stopping_and_when_time_is_over(tmp_path: Path) -> None:
    with Supervisor() as supervisor:
        supervisor.start(python("sleeper", SLEEPER, tmp_path))
        assert supervisor.wait_until(lambda: True, timeout_s=5, stopping=lambda: False) is True
        assert supervisor.wait_until(lambda: False, timeout_s=5, stopping=lambda: True) is False
        with pytest.raises(StartError, match=r"not ready after 0 s; see .*sleeper\.log"):
            supervisor.wait_until(lambda: False, timeout_s=0.2, stopping=lambda: False)


def test_all_parts_are_stopped_the_one_others_depend_on_last(tmp_path: Path) -> None:
    order = tmp_path / "order"
    code = (
        "import signal, sys, time\n"
        "def stop(*_):\n"
        f"    open({str(order)!r}, 'a').write(sys.argv[1] + ' ')\n"
        "    sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, stop)\n"
        "print('up', flush=True)\n"
        "time.sleep(60)\n"
    )
    supervisor = Supervisor()
    for name in ("base", "leaf"):
        command = (sys.executable, "-c", code, name)
        supervisor.start(Part(name, command, tmp_path / name, grace_s=5, stop_last=name == "base"))
    wait_until(lambda: all(running.log_tail() == "up" for running in supervisor.running))
    assert supervisor.stop() == []
    assert order.read_text() == "leaf base "


def test_a_part_that_will_not_stop_is_killed_and_named(tmp_path: Path) -> None:
    supervisor = Supervisor()
    running = supervisor.start(python("stubborn", STUBBORN, tmp_path, grace_s=0.3))
    wait_until(lambda: running.log_tail() == "up")
    assert supervisor.stop() == ["stubborn"]
    assert not alive(running.process.pid)


def test_what_a_part_started_ends_with_it(tmp_path: Path) -> None:
    supervisor = Supervisor()
    running = supervisor.start(python("parent", PARENT, tmp_path))
    wait_until(lambda: running.log_tail().strip().isdigit())
    grandchild = int(running.log_tail())
    supervisor.stop()
    wait_until(lambda: not alive(grandchild))


def test_leaving_the_block_stops_everything_even_after_an_error(tmp_path: Path) -> None:
    pids: list[int] = []

    def start_and_fail() -> None:
        with Supervisor() as supervisor:
            pids.append(supervisor.start(python("sleeper", SLEEPER, tmp_path)).process.pid)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        start_and_fail()
    assert not alive(pids[0])


def test_parts_die_with_a_supervisor_that_is_killed(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path\n"
        "from keepsight.local.supervisor import Part, Supervisor\n"
        f"part = Part('sleeper', (sys.executable, '-c', {SLEEPER!r}), Path({str(tmp_path)!r}) / 'log')\n"
        "supervisor = Supervisor(); running = supervisor.start(part)\n"
        "print(running.process.pid, flush=True); time.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process.stdout:
        pid = int(process.stdout.readline())
    wait_until(lambda: (tmp_path / "log").read_text() == "up\n")
    assert alive(pid)
    process.kill()
    process.wait()
    wait_until(lambda: not alive(pid))


def test_a_part_whose_supervisor_died_before_it_was_bound_does_not_start(tmp_path: Path) -> None:
    from keepsight.local.supervisor import BOUND

    witness = tmp_path / "witness"
    command = [sys.executable, "-I", "-S", str(BOUND), "1", str(int(signal.SIGTERM)), "touch", str(witness)]
    ran = subprocess.run(command, check=False, capture_output=True)
    assert os.getpid() != 1
    assert ran.returncode == 1
    assert not witness.exists()

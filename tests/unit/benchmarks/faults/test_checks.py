"""The harness notices what it is there to notice: each check is shown what is right and what is not."""

from __future__ import annotations

import os
from pathlib import Path

from benchmarks.faults.checks import Death, failed, is_server_error, lost, open_traces, percentile, traces
from benchmarks.faults.client import Asked, wrong_with
from benchmarks.faults.pictures import Pictures
from benchmarks.faults.service import Answer

RIGHT = Asked(at=10.0, seconds=0.02, why=None)
BROKEN = Asked(at=10.0, seconds=0.02, why="ConnectionResetError")


def never(why: str) -> bool:
    return False


def test_a_failed_request_is_counted() -> None:
    assert failed([RIGHT, BROKEN, RIGHT], deaths=[], excused=never) == ["ConnectionResetError"]


def test_only_requests_that_were_under_way_in_a_killed_server_may_break() -> None:
    assert failed([BROKEN], deaths=[Death(10.01, 10.5)], excused=never) == []
    assert failed([BROKEN], deaths=[Death(9.2, 9.9)], excused=never) == []  # it connected when it was just gone
    assert failed([BROKEN], deaths=[Death(9.2)], excused=never) == []  # it is being taken down still
    assert failed([BROKEN], deaths=[Death(8.5, 9.0)], excused=never) == ["ConnectionResetError"]
    assert failed([BROKEN], deaths=[Death(10.5)], excused=never) == ["ConnectionResetError"]


def test_a_request_is_excused_by_its_reason_alone() -> None:
    asked = [Asked(1.0, 0.1, "401 no key"), Asked(1.0, 0.1, "500 oh")]
    assert failed(asked, deaths=[], excused=lambda why: why.startswith("401")) == ["500 oh"]


def test_an_answer_that_names_no_class_is_wrong() -> None:
    sound = b'{"results": [{"predictions": [{"label": "a"}], "error": null}]}'
    assert wrong_with(200, sound) is None
    assert wrong_with(503, b"{}") is not None
    assert wrong_with(200, sound.replace(b'[{"label": "a"}]', b"[]")) is not None
    assert wrong_with(200, b"<html>") is not None


def test_server_errors_are_those_that_do_not_say_when_to_come_back() -> None:
    wait = {"retry-after": "2"}
    assert [status for status in (200, 202, 404, 422, 504) if is_server_error(Answer(status, b""))] == []
    assert [status for status in (429, 503, 507) if is_server_error(Answer(status, b"", wait))] == []
    assert [status for status in (429, 500, 502, 503, 507) if not is_server_error(Answer(status, b""))] == []
    assert is_server_error(Answer(500, b"", wait))


def test_silence_is_an_error_unless_a_server_was_killed() -> None:
    assert is_server_error(Answer(0, b"timed out"))
    assert not is_server_error(Answer(0, b"reset"), may_break=True)


def test_a_job_without_a_final_state_is_lost() -> None:
    states = {"a": "succeeded", "b": "running", "c": None, "d": "failed", "e": "queued"}
    assert lost(states) == ["b", "c", "e"]


def test_image_bytes_that_are_left_are_found(tmp_path: Path) -> None:
    pictures = Pictures(seed=3)
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / "server.log").write_bytes(b"x" * 3_000_000)
    assert traces([tmp_path], pictures.mark.needles) == []
    for name, content in {
        "as a file": pictures.png(),
        "within others": b"x" * ((1 << 20) - 20) + pictures.mark.row + b"x" * 100,  # across two reads
        "as pixels": bytes(level for level in pictures.mark.row for _ in range(3)),
    }.items():
        left = tmp_path / "log" / name
        left.write_bytes(content)
        assert traces([tmp_path], pictures.mark.needles) == [str(left)]
        left.unlink()


def test_image_bytes_in_a_file_without_a_name_are_found(tmp_path: Path) -> None:
    pictures = Pictures(seed=3)
    path = tmp_path / "cache"
    with path.open("w+b") as file:
        file.write(pictures.png())
        file.flush()
        path.unlink()
        assert len(open_traces([os.getpid()], pictures.mark.needles)) == 1
    assert open_traces([os.getpid()], pictures.mark.needles) == []


def test_a_percentile_is_one_of_the_values() -> None:
    assert percentile([], 0.99) is None
    assert percentile([3.0], 0.99) == 3.0
    assert percentile([float(n) for n in range(100)], 0.99) == 99.0

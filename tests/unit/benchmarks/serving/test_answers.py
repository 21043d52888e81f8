"""Whose scores an answer holds, which requests a swap touches, and what the processes serve."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.serving.answers import agrees, judge, judged, least_difference, p99_ratio, split_by_swaps
from benchmarks.serving.foreign import Window
from benchmarks.serving.parts.commit import of_model
from benchmarks.serving.servers import Launch, Server, ServerError
from benchmarks.serving.versions import api_pids, move, serving


def scores(value: float) -> dict[str, dict[str, float]]:
    return {
        label: {"text_score": value, "visual_score": value + i / 10, "fused_score": 2 * value}
        for i, label in enumerate(("cat", "dog"))
    }


QUIET = {"v1": [scores(0.1), scores(0.2)], "v2": [scores(0.5), scores(0.6)]}


def answer(version: str, *values: float) -> str:
    results = [{"predictions": [{"label": label, **s} for label, s in scores(value).items()]} for value in values]
    return json.dumps({"model_version": version, "results": results})


class TestJudging:
    def test_scores_within_a_rounding_agree(self) -> None:
        assert agrees(scores(0.1003), scores(0.1))
        assert not agrees(scores(0.102), scores(0.1))
        assert not agrees({}, scores(0.1))
        assert not agrees(scores(0.1), {})

    def test_an_answer_is_a_version_s_own_if_all_its_images_are(self) -> None:
        assert judged(answer("v1", 0.1), 0, QUIET, 2) == "own"
        assert judged(answer("v2", 0.1), 0, QUIET, 2) == "mixed"
        assert judged(answer("v3", 0.1), 0, QUIET, 2) == "mixed"
        # place 4 of two photos holds photos 0, 1, 0, 1
        assert judged(answer("v1", 0.1, 0.2, 0.1, 0.2), 4, QUIET, 2) == "own"
        assert judged(answer("v1", 0.1, 0.2, 0.5, 0.6), 4, QUIET, 2) == "mixed"
        assert judged(answer("v1", 0.1), 4, QUIET, 2) == "mixed"

    def test_failed_and_mixed_requests_are_counted_and_the_first_is_shown(self) -> None:
        log = [
            {"status": 200, "place": 0, "body": answer("v1", 0.1)},
            {"status": 200, "place": 1, "body": answer("v1", 0.6)},
            {"status": 503, "place": 0, "body": "stopping"},
        ]
        found = judge(log, QUIET, 2)
        assert (found["requests"], found["failed"], found["mixed"]) == (3, 1, 1)
        assert found["by_version"] == {"v1": 2}
        assert found["first"]["failed"] == "503: stopping"

    def test_versions_must_be_told_apart_by_every_photo(self) -> None:
        assert least_difference(QUIET["v1"], QUIET["v2"]) == pytest.approx(0.4)


class TestSwapWindows:
    def test_whatever_touches_a_swap_is_not_steady(self) -> None:
        spans = [(0.0, 0.9), (0.5, 1.2), (1.5, 1.6), (2.05, 2.3), (2.2, 2.4)]
        log = [{"begin": begin, "end": end} for begin, end in spans]
        touched, steady = split_by_swaps(log, [(1.0, 2.0)])
        assert touched == pytest.approx([700, 100, 250])
        assert steady == pytest.approx([900, 200])

    def test_the_ratio_of_tails(self) -> None:
        assert p99_ratio([2.0] * 100, [1.0] * 100) == 2.0
        assert p99_ratio([], [1.0]) is None


class FakeServer(Server):
    """A server whose answers are made up; no process is started."""

    def __init__(self, answers: dict[str, list[tuple[int, Any]]]) -> None:
        self.name = "fake"
        self.answers = answers

    def get(self, path: str) -> tuple[int, bytes]:
        waiting = self.answers[path]
        status, body = waiting.pop(0) if len(waiting) > 1 else waiting[0]
        return status, json.dumps(body).encode()

    def post(self, path: str, body: Any) -> tuple[int, Any]:
        return self.answers[path][0]


def processes(*versions: str) -> dict[str, Any]:
    return {"processes": [{"serving": version, "pid": 100 + i} for i, version in enumerate(versions)]}


class TestMoves:
    def test_a_move_ends_when_all_processes_serve_the_version(self) -> None:
        looks = [(200, processes("v1", "v2")), (200, processes("v2", "v2"))]
        told = {"to": "v2", "prepare_s": 0.5, "commit_s": 0.01}
        server = FakeServer({"/v1/admin/promote": [(200, told)], "/v1/admin/rollout": list(looks)})
        found = move(server, "promote", "v2")
        assert found.begin <= found.answered < found.all_serving
        assert (found.prepare_s, found.commit_s) == (0.5, 0.01)
        assert found.as_record()["wall_s"] == found.wall_s

    def test_a_refusal_is_an_error(self) -> None:
        server = FakeServer({"/v1/admin/rollback": [(409, {"detail": "nothing moved"})]})
        with pytest.raises(ServerError, match="nothing moved"):
            move(server, "rollback", "v1")

    def test_a_server_that_does_not_tell_what_it_serves_is_an_error(self) -> None:
        server = FakeServer({"/v1/admin/rollout": [(503, {"detail": "no Redis"})]})
        with pytest.raises(ServerError, match=r"answered 503: .*no Redis"):
            serving(server)

    def test_the_processes_are_those_that_the_rollout_names(self) -> None:
        server = FakeServer({"/v1/admin/rollout": [(200, processes("v1", "v1"))]})
        assert api_pids(server, 2) == [100, 101]
        with pytest.raises(ServerError, match="expected 3"):
            api_pids(server, 3, timeout_s=0.0)

    def test_processes_that_are_still_starting_are_waited_for(self) -> None:
        starting = processes("v1", "v1")
        starting["processes"][1]["serving"] = None
        server = FakeServer({"/v1/admin/rollout": [(200, starting), (200, processes("v1", "v1"))]})
        assert api_pids(server, 2) == [100, 101]

    def test_processes_that_were_given_up_do_not_count(self) -> None:
        found = processes("v1", "v2")
        found["processes"][1]["state"] = "dead"
        server = FakeServer({"/v1/admin/rollout": [(200, found)]})
        assert serving(server) == ["v1"]
        assert api_pids(server, 1) == [100]

    def test_rollbacks_alone_count_for_the_commit(self) -> None:
        def moved(side: str, commit_s: float | None, wall_s: float) -> Window:
            return Window(side, 1, {"commit_s": commit_s, "wall_s": wall_s}, 0.0, noisy=False)

        warm = [moved("rollback", 0.02, 0.1), moved("promote", 9.0, 9.0), moved("rollback", 0.04, 0.3)]
        found = of_model("compact", [moved("promote", 0.1, 1.0), moved("promote", 0.1, 2.0)], warm)
        assert found["prepared_commit_ms_compact"] == 30.0
        assert found["prepared_commit_ms_most_compact"] == 40.0
        assert found["cold_commit_s_compact"] == 1.5
        assert found["prepared_call_ms_compact"] == 200.0
        assert of_model("compact", warm, [moved("rollback", None, 1.0)])["prepared_commit_ms_compact"] is None


class TestServers:
    def test_a_server_that_ends_by_itself_is_told_with_the_end_of_its_log(self, tmp_path: Path) -> None:
        launch = Launch("broken", ["sh", "-c", "echo no such model; exit 3"], "/health")
        server = Server(launch, tmp_path / "log" / "broken.log")
        with pytest.raises(ServerError, match="broken ended with exit status 3: no such model"):
            server.until_ready()
        server.stop()

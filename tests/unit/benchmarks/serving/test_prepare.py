"""Versions that are prepared one after another, and the code of an earlier commit."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import cast

import pytest
import torch

from benchmarks.common.process import ROOT
from benchmarks.serving import prepare
from benchmarks.serving.parts.gain import CheckoutError, check_engines, checked_out
from benchmarks.serving.servers import Server, ServerError
from benchmarks.serving.stores import build
from segp_cl.models.backbone import Backbone
from segp_cl.types import ModelSpec


def test_every_version_is_timed_and_run_by_the_engine(
    tmp_path: Path, tiny_spec: ModelSpec, tiny_backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "set_num_threads", lambda threads: None)
    build(tmp_path / "store", tiny_backbone, versions=3, first_adapted=False, classes=4)
    order = {"model": tiny_spec.name, "pretrained": None, "store": str(tmp_path / "store"), "threads": 1}
    found = prepare.measure({**order, "cache": str(tmp_path / "cache")})
    assert [each["image_adapters"] > 0 for each in found["versions"]] == [False, True, True]
    assert all(each["seconds"] > 0 for each in found["versions"])
    assert found["convert_s"] > 0
    assert [path.name for path in (tmp_path / "cache").glob("*/*.xml")] == ["graph.xml"]


def test_an_earlier_commit_is_there_for_as_long_as_it_is_measured() -> None:
    if subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True).returncode:
        pytest.skip("this is no clone")
    with checked_out("HEAD") as code:
        assert (code / "app" / "startup.py").is_file()
    assert not code.exists()
    listed = subprocess.run(["git", "worktree", "list"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert str(code) not in listed.stdout


def test_a_commit_that_git_does_not_have_is_said() -> None:
    with pytest.raises(CheckoutError, match="0000000"), checked_out("0000000"):
        pass


class Ready:
    """A server as far as its engine goes."""

    def __init__(self, body: str) -> None:
        self.body = body.encode()

    def get(self, path: str) -> tuple[int, bytes]:
        assert path == "/readyz"
        return 200, self.body


def test_servers_that_are_not_what_they_are_called_are_not_compared() -> None:
    fast, slow, old = (cast(Server, Ready(each)) for each in ('{"engine": "openvino"}', '{"engine": "torch"}', "{}"))
    check_engines(fast, old)
    for ours, theirs in ((slow, old), (fast, slow), (fast, fast)):
        with pytest.raises(ServerError, match="engines now and before"):
            check_engines(ours, theirs)

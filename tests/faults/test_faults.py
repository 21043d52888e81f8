"""The quick half of what `python -m benchmarks.faults` tries: a running service, one fault at a time, and bad inputs.

What is asserted is in `benchmarks.faults.trial` and `benchmarks.faults.abuse`; that these can fail is tested in
`tests/unit/benchmarks/faults`. No time is asserted but that everything ends.
"""

from __future__ import annotations

import base64
import signal
from typing import Any

import pytest

from benchmarks.faults.abuse import abuse
from benchmarks.faults.checks import FINAL
from benchmarks.faults.fault import Fault
from benchmarks.faults.inputs import QUICK, bad_inputs
from benchmarks.faults.kinds import FAULTS
from benchmarks.faults.stage import JOB_S
from benchmarks.faults.trial import Trial
from tests.faults.conftest import SEED, Stages
from tests.waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.mark.parametrize("fault", [fault for fault in FAULTS if fault.quick], ids=lambda fault: fault.name)
def test_the_service_bears(fault: Fault, stages: Stages) -> None:
    try:
        outcome = Trial(fault, stages.get()).run()
    except BaseException:
        stages.spoil()
        raise
    if outcome.problems:
        stages.spoil()
    assert outcome.problems == []
    if outcome.skipped:
        pytest.skip(outcome.skipped)


@pytest.mark.parametrize("killed", ["worker", "server"])
def test_corrections_are_learned_once_whoever_is_killed(killed: str, stages: Stages) -> None:
    """The processes are killed as soon as the job is accepted, which a worker takes at once."""
    stage = stages.get()
    service = stage.service
    label = stage.classes()[0]
    before = len(service.ask("GET", "/v1/versions").json["versions"])
    for _ in range(3):
        body = {"image": base64.b64encode(stage.pictures.png()).decode(), "label": label}
        assert service.ask("POST", "/v1/corrections", body).status == 201
    accepted = service.ask("POST", "/v1/corrections/learn")
    assert accepted.status == 202
    stage.signal(killed, signal.SIGKILL)
    job_id = str(accepted.json["job_id"])

    def job() -> dict[str, Any]:
        answer = service.ask("GET", f"/v1/jobs/{job_id}", timeout_s=15)
        return dict(answer.json) if answer.status == 200 else {}

    wait_until(lambda: job().get("state") in FINAL, timeout_s=JOB_S)
    found = job()
    assert (found["state"], found["serving"], found["receipt"]["learned"]) == ("succeeded", "corrected", True), found
    wait_until(lambda: service.ask("GET", "/v1/corrections").status == 200)
    assert service.ask("GET", "/v1/corrections").json["corrections"] == []
    listed = service.ask("GET", "/v1/versions").json["versions"]
    assert [(each["made"], each["parent"]) for each in listed[before:]] == [("corrected", stage.base)]
    assert stage.move("rollback", stage.base).status == 200


def test_bad_inputs_do_no_harm(stages: Stages) -> None:
    stages.spoil()  # the faults before may have made keys
    stage = stages.get()
    found = abuse(stage, bad_inputs(QUICK, seed=SEED, mark=stage.pictures.mark))
    assert sum(found.inputs.values()) == sum(QUICK.values())
    assert [*found.problems, *found.harm] == []
    assert found.peak_extra_mib <= 512  # twice the aim, which the record has

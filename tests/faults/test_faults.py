"""The quick half of what `python -m benchmarks.faults` tries: a running service, one fault at a time, and bad inputs.

What is asserted is in `benchmarks.faults.trial` and `benchmarks.faults.abuse`; that these can fail is tested in
`tests/unit/benchmarks/faults`. No time is asserted but that everything ends.
"""

from __future__ import annotations

import pytest

from benchmarks.faults.abuse import abuse
from benchmarks.faults.fault import Fault
from benchmarks.faults.inputs import QUICK, bad_inputs
from benchmarks.faults.kinds import FAULTS
from benchmarks.faults.trial import Trial
from tests.faults.conftest import SEED, Stages

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


def test_bad_inputs_do_no_harm(stages: Stages) -> None:
    stages.spoil()  # the faults before may have made keys
    stage = stages.get()
    found = abuse(stage, bad_inputs(QUICK, seed=SEED, mark=stage.pictures.mark))
    assert sum(found.inputs.values()) == sum(QUICK.values())
    assert [*found.problems, *found.harm] == []
    assert found.peak_extra_mib <= 512  # twice the aim, which the record has

"""Version 1: the base model before any task."""

from __future__ import annotations

from typing import Final

from model_store.store import Store, bootstrap
from model_store.types import PreprocessingRecord, Provenance, VersionId
from segp_cl.learn.learner import initial_state
from segp_cl.models.backbone import Backbone
from segp_cl.runtime.classifier import Classifier
from segp_cl.runtime.golden import record

FIRST_REASON: Final = "the base model, before any task"
"""What the journal says of version 1."""


def make_first_version(store: Store, base: Backbone) -> VersionId:
    """Publish and promote version 1 unless the store has a CURRENT. Servers and workers may call it concurrently.

    Returns:
        CURRENT: the new version, or the one that was there.

    Raises:
        DamagedPointerError: CURRENT cannot be read, or the store has versions and no CURRENT; see `bootstrap`.
    """
    current = store.current()
    if current is not None:
        return current
    state = initial_state(base)
    return bootstrap(
        store,
        state,
        provenance=Provenance(
            reason=FIRST_REASON,
            preprocessing=PreprocessingRecord.model_validate(base.preprocessing),
        ),
        golden=record(Classifier(base, state), base.preprocessing.size),
    )

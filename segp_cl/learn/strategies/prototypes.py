"""No training: new prototypes are means of their images' raw features, computed in one pass."""

from __future__ import annotations

from segp_cl.learn.strategies.shared import finish, gather
from segp_cl.learn.training import Outcome, Session


def learn_prototypes(session: Session) -> Outcome:
    """Compute class means (23) with the unchanged model; old prototypes, texts and adapters stay as they are."""
    if session.old.lora is not None:
        session.model.adapt(session.config, session.old.lora, generator=session.generator).merge()
    with session.report.phase("prototypes"):
        return finish(session, gather(session, session.inputs(None), session.old.kept_sums), lora=session.old.lora)

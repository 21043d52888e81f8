"""The one interface of all update strategies."""

from __future__ import annotations

from typing import Protocol

from segp_cl.learn.training import Outcome, Session


class Strategy(Protocol):
    """A way to learn a task. A strategy has no state of its own: everything is in the session."""

    def __call__(self, session: Session) -> Outcome:
        """Learn the session's task and return the parts of the new state."""
        ...

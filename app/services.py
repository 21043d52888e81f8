"""The services that routes use, built once when the server starts and closed when it stops."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from app.backups import Backups
from app.feeds import JobFeeds
from app.intake.places import Intake
from app.metrics import Metrics
from app.pools import Pools
from app.serving.admission import Admission
from app.serving.aside import Aside
from app.serving.decode import Decoder
from app.serving.engine import Engine
from app.serving.live_model import LiveModel
from app.serving.member import Member
from app.serving.watcher import Watcher
from app.sessions import Sessions
from app.settings import Settings
from app.upkeep import Verified
from app.version_book import VersionBook
from exchange.announcements import Announcements
from exchange.jobs import Jobs
from exchange.roster import Roster
from exchange.spool import Spool
from keepsight.keys import KeyFile
from model_store.store import Store
from model_store.test_sets import StoredTestSets
from model_store.types import VersionId

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Services:
    """The services that routes use."""

    settings: Settings
    metrics: Metrics
    keys: KeyFile
    sessions: Sessions
    store: Store
    test_sets: StoredTestSets
    spool: Spool
    jobs: Jobs
    announcements: Announcements
    live: LiveModel
    aside: Aside
    admission: Admission
    engine: Engine
    decoder: Decoder
    watcher: Watcher
    member: Member
    roster: Roster
    space_of: Callable[[VersionId], str]
    verify: Callable[[VersionId], Verified]
    intake: Intake
    exports: Intake
    backups: Backups
    book: VersionBook
    pools: Pools
    feeds: JobFeeds

"""All of a server's services over a small store, with a base model that loads at once: a version is its name."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from app.backups import Backups
from app.feeds import JobFeeds
from app.intake.places import Intake
from app.metrics import Metrics
from app.pools import Pools
from app.services import Services
from app.serving.admission import Admission
from app.serving.aside import Aside
from app.serving.decode import Decoder
from app.serving.engine import Engine
from app.serving.live_model import LiveModel, Served
from app.serving.member import Member
from app.serving.watcher import Watcher
from app.sessions import Sessions
from app.settings import Settings
from app.upkeep import Verified
from app.version_book import VersionBook
from exchange.announcements import Announcements
from exchange.contracts import CURRENT_CHANNEL
from exchange.jobs import Jobs
from exchange.roster import Roster
from exchange.spool import Spool
from keepsight.keys import KeyFile
from model_store.store import Store, bootstrap
from model_store.test_sets import StoredTestSets
from model_store.types import Provenance, VersionId
from segp_cl.data.preprocessing import Preprocessing
from segp_cl.errors import KeepsightError
from tests.contract.states import learned

PREPROCESSING = Preprocessing(8, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


class House:
    """A store with its first version, and one server of it.

    Attributes:
        first: version 1.
        broken: versions that cannot be loaded.
        loaded: what was loaded, in order.
        hold: cleared, every load waits until it is set.
    """

    def __init__(self, folder: Path, redis_url: str, *, beat_s: float = 0.05) -> None:
        self.store = Store(folder / "store")
        self.first = bootstrap(self.store, learned(0))
        self.broken: set[VersionId] = set()
        self.loaded: list[VersionId] = []
        self.hold = threading.Event()
        self.hold.set()
        settings = Settings.model_validate({"store": folder / "store", "redis_url": redis_url, "swap_timeout_s": 20.0})
        metrics = Metrics()
        live = LiveModel(metrics)
        roster = Roster(redis_url, self.store.identity(), timeout_s=1.0)
        member = Member("server", roster=roster, live=live, device="cpu", beat_s=beat_s)
        watcher = Watcher(
            current=self.store.current,
            load=self._load,
            live=live,
            poll_s=0.05,
            backoff_s=0.05,
            metrics=metrics,
            left_out=member.left_out,
            swapped=member.wake,
        )
        jobs, spool, announcements = Jobs(redis_url), Spool(folder / "spool"), Announcements(redis_url)
        pools = Pools()
        self.services = Services(
            settings=settings,
            metrics=metrics,
            keys=KeyFile(folder / "keys.json"),
            sessions=Sessions(folder / "store", length_s=settings.session_s),
            store=self.store,
            test_sets=StoredTestSets(self.store.root),
            spool=spool,
            jobs=jobs,
            announcements=announcements,
            live=live,
            aside=Aside(live, self._load),
            admission=Admission(places=4, timeout_s=30, metrics=metrics),
            engine=Engine(max_images=4, max_labels=4, max_wait_s=0, label_cache_size=4, metrics=metrics),
            decoder=Decoder(threads=2, max_image_bytes=10_000, max_image_pixels=10_000),
            watcher=watcher,
            member=member,
            roster=roster,
            space_of=lambda version_id: version_id,
            backups=Backups(folder / "store"),
            book=VersionBook(self.store),
            exports=Intake(threads=1, timeout_s=10),
            verify=lambda version_id: Verified("intact", "same"),
            intake=Intake(threads=1, timeout_s=20.0),
            pools=pools,
            feeds=JobFeeds(jobs, spool, announcements, pools.broker, poll_s=0.05, most=4),
        )

    def publish(self, classes: int, parent: VersionId | None = None) -> VersionId:
        """A new version with so many classes, on the first one unless said otherwise; it is not promoted."""
        return self.store.publish(learned(classes), parent=parent or self.first, provenance=Provenance()).version_id

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Services]:
        """Serve CURRENT and take part in moves while the block lasts."""
        services = self.services
        await services.watcher.look()
        await services.member.join(services.watcher)

        def wake() -> None:
            services.watcher.wake()
            services.member.wake()

        async with services.announcements.on(CURRENT_CHANNEL, wake):
            following = [asyncio.create_task(each) for each in (services.watcher.run(), services.member.run())]
            try:
                yield services
            finally:
                self.hold.set()
                for task in following:
                    task.cancel()
                await asyncio.gather(*following, return_exceptions=True)
                await services.member.leave()
                services.watcher.close()
        await services.announcements.close()

    def close(self) -> None:
        """Give back what was opened."""
        self.services.pools.close()
        self.services.roster.close()
        self.services.jobs.close()
        self.services.engine.close()
        self.services.decoder.close()
        self.services.aside.close()

    def _load(self, version_id: VersionId) -> Served:
        self.loaded.append(version_id)
        assert self.hold.wait(30)
        if version_id in self.broken:
            raise KeepsightError(f"{version_id} is broken")
        classifier = SimpleNamespace(state=SimpleNamespace(classes=()), engine="torch")
        return Served(version_id, cast(Any, classifier), PREPROCESSING)

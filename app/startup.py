"""Builds the services when the server starts, and closes them when it stops."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import torch

from app.backups import Backups
from app.feeds import JobFeeds
from app.figures import figures_of
from app.intake.places import Intake
from app.loop_watch import watch_loop
from app.metrics import Metrics
from app.pools import Pools
from app.services import Services
from app.serving.admission import Admission
from app.serving.aside import Aside
from app.serving.decode import Decoder
from app.serving.engine import Engine
from app.serving.live_model import LiveModel, Loader
from app.serving.member import Member, new_server_id
from app.serving.watcher import Watcher
from app.sessions import Sessions
from app.settings import Settings
from app.test_set_gauges import follow_test_sets
from app.tidy import tidy_when_idle
from app.upkeep import Verifier
from app.version_book import VersionBook
from exchange.announcements import Announcements
from exchange.contracts import CURRENT_CHANNEL
from exchange.jobs import Jobs
from exchange.roster import Roster
from exchange.spool import Spool
from keepsight.keys import KeyFile, KeyFileError
from model_store.first_version import make_first_version
from model_store.store import Store
from model_store.test_sets import Limits as TestSetLimits
from model_store.test_sets import StoredTestSets
from model_store.types import DamagedPointerError, StoreError
from segp_cl.data.decode_memory import limit_decode_memory
from segp_cl.errors import KeepsightError, ModelLoadError
from segp_cl.models.backbone import Backbone
from segp_cl.models.load import load_backbone
from segp_cl.runtime.classifier import embedding_space
from segp_cl.runtime.engines.choose import choose_engine
from segp_cl.runtime.engines.interface import Engine as PassEngine
from segp_cl.runtime.engines.interface import EngineError
from segp_cl.runtime.hardware import choose_device
from segp_cl.runtime.passes import PassSettings
from segp_cl.runtime.process import give_memory_back

logger = logging.getLogger(__name__)


class StartupError(KeepsightError):
    """The server must not start with these settings. The message says what to set."""


@asynccontextmanager
async def running(settings: Settings, metrics: Metrics, live: LiveModel) -> AsyncIterator[Services]:
    """Load the base model, make version 1 in an empty store, serve CURRENT and follow it while the block lasts.

    Raises:
        StartupError: the settings and the store do not fit together.
        ModelLoadError: there is no such base model.
        StoreError: the store cannot be used.
    """
    base, runner, store, spool = await asyncio.to_thread(_open, settings, metrics)
    device = str(base.device)
    roster = Roster(settings.redis_url, store.identity())
    beat_s = min(settings.poll_interval_s, settings.server_lost_after_s / 4)
    member = Member(
        new_server_id(), roster=roster, live=live, device=device, beat_s=beat_s, figures=lambda: figures_of(metrics)
    )
    jobs, announcements = Jobs(settings.redis_url), Announcements(settings.redis_url)
    passes = passes_of(settings, base.device)
    engine = Engine(
        max_images=passes.most,
        max_labels=settings.max_batch_size,
        max_wait_s=settings.max_wait_ms / 1000,
        label_cache_size=settings.label_cache_size,
        metrics=metrics,
        passes_ahead=runner.passes_ahead,
    )
    decoder = Decoder(
        threads=settings.decode_threads,
        max_image_bytes=settings.max_image_bytes,
        max_image_pixels=settings.max_image_pixels,
        max_request_pixels=settings.max_request_pixels,
        fast=settings.decode == "fast",
    )
    watcher = Watcher(
        current=store.current,
        load=Loader(store, base, warm=settings.warm_versions, engine=runner),
        live=live,
        poll_s=settings.poll_interval_s,
        backoff_s=settings.reload_backoff_s,
        metrics=metrics,
        left_out=member.left_out,
        swapped=member.wake,
        fallback=store.served_before,
        served_elsewhere=member.served_elsewhere,
    )
    pools = Pools()
    feeds = JobFeeds(
        jobs, spool, announcements, pools.broker, poll_s=settings.events_poll_s, most=settings.events_streams
    )
    services = Services(
        settings=settings,
        metrics=metrics,
        keys=KeyFile(settings.keys_file, store=settings.store),
        sessions=Sessions(settings.store, length_s=settings.session_s),
        store=store,
        test_sets=StoredTestSets(
            settings.store,
            TestSetLimits(
                sets=settings.max_test_sets, bytes=settings.max_test_set_bytes, images=settings.max_test_set_images
            ),
        ),
        spool=spool,
        jobs=jobs,
        announcements=announcements,
        live=live,
        aside=Aside(live, Loader(store, base, warm=0, engine=runner)),  # which keeps the last one itself
        admission=Admission(places=settings.queue_size, timeout_s=settings.classify_timeout_s, metrics=metrics),
        engine=engine,
        decoder=decoder,
        watcher=watcher,
        member=member,
        roster=roster,
        space_of=functools.lru_cache(1024)(lambda version_id: embedding_space(store.open(version_id))),
        verify=Verifier(store, base),
        intake=Intake(threads=settings.intake_threads, timeout_s=settings.upload_timeout_s),
        backups=Backups(settings.store),
        book=VersionBook(store),
        exports=Intake(threads=1, timeout_s=settings.export_timeout_s, late="the version was not exported"),
        pools=pools,
        feeds=feeds,
    )
    try:
        await watcher.look()
        await member.join(watcher)

        def wake() -> None:
            watcher.wake()
            member.wake()

        async with announcements.on(CURRENT_CHANNEL, wake):
            duties = (
                watcher.run(),
                member.run(),
                watch_loop(metrics),
                tidy_when_idle(lambda: services.admission.is_idle and services.intake.is_idle),
                _see_keys(services),
                follow_test_sets(lambda: live.version_id, services.test_sets, metrics, pools.store),
            )
            following = [asyncio.create_task(each) for each in duties]
            try:
                yield services
            finally:
                for task in following:
                    task.cancel()
                await asyncio.gather(*following, return_exceptions=True)
    finally:
        await member.leave()
        watcher.close()
        await feeds.close()
        pools.close()
        await announcements.close()
        roster.close()
        jobs.close()
        engine.close()
        decoder.close()
        services.aside.close()
        services.intake.close()
        services.exports.close()
        services.backups.close()


async def _see_keys(services: Services) -> None:
    """Look for keys also while nobody asks, so that keys which were there for a moment are remembered."""
    while True:
        with contextlib.suppress(KeyFileError):
            services.keys.needed()
        await asyncio.sleep(services.settings.poll_interval_s)


def passes_of(settings: Settings, device: torch.device) -> PassSettings:
    """Return how the image tower is run.

    Raises:
        StartupError: CUDA graphs were asked for on a CPU.
    """
    if settings.cuda_graphs and device.type != "cuda":
        raise StartupError(
            f"KEEPSIGHT_CUDA_GRAPHS needs a GPU, but the model runs on {device}; "
            "leave it unset, or set KEEPSIGHT_DEVICE=cuda"
        )
    return PassSettings.of(
        device,
        max_batch_size=settings.max_batch_size,
        precision=torch.bfloat16 if settings.serving_precision == "bfloat16" else torch.float32,
        compiled=settings.compile,
        graphs=settings.cuda_graphs,
        threads=settings.threads,
    )


def engine_of(settings: Settings, base: Backbone, metrics: Metrics) -> PassEngine:
    """Return what runs the image towers of versions.

    Raises:
        StartupError: an engine was asked for by name, and cannot be used.
    """
    try:
        return choose_engine(
            base,
            wanted=settings.engine,
            precision=settings.serving_precision,
            passes=passes_of(settings, base.device),
            threads=settings.threads,
            cache=settings.engine_cache_folder,
            failed=lambda why: metrics.engine_failures.inc(),
        )
    except EngineError as error:
        raise StartupError(
            f"KEEPSIGHT_ENGINE is {settings.engine}, which cannot be used: {error}; leave it unset"
        ) from error


def configure_base(base: Backbone, settings: Settings) -> None:
    """Set the base model's memory layout and compile it, as the settings say.

    Raises:
        StartupError: torch.compile does not work here.
    """
    if settings.channels_last:
        base.use_channels_last()
    if not settings.compile:
        return
    size = base.preprocessing.size
    try:
        base.compile_towers()
        with torch.inference_mode():
            base.raw_features(torch.zeros(1, 3, size, size, device=base.device))
    except Exception as error:  # dynamo and its backends raise many kinds
        if isinstance(error, ModelLoadError):
            raise
        raise StartupError(
            f"KEEPSIGHT_COMPILE is set, but torch.compile does not work here ({type(error).__name__}); leave it unset, "
            "or install a C++ compiler (CPU) or Triton (GPU)"
        ) from error


def _open(settings: Settings, metrics: Metrics) -> tuple[Backbone, PassEngine, Store, Spool]:
    torch.set_num_threads(settings.threads)
    limit_decode_memory(settings.max_decode_bytes, give_back=give_memory_back)
    device = choose_device(settings.device)
    passes_of(settings, torch.device(device))  # refused before a model is loaded
    base = load_backbone(settings.model_spec, device=device)
    configure_base(base, settings)
    engine = engine_of(settings, base, metrics)
    logger.info(
        "loaded model=%s weights=%s device=%s engine=%s",
        settings.model,
        base.weights_digest[:12],
        base.device,
        engine.name,
    )
    try:
        spool = Spool(settings.spool)
    except OSError as error:
        raise StartupError(f"the spool {settings.spool} cannot be used: {error.strerror}") from error
    store = Store(settings.store)
    try:
        make_first_version(store, base)
    except DamagedPointerError as error:
        if not store.served_before():
            raise
        logger.error("%s; until then the last version that was served and can be read is served", error)
    _check_model(store, base, settings)
    return base, engine, store, spool


def _check_model(store: Store, base: Backbone, settings: Settings) -> None:
    """Refuse to serve a store with another base model than it was made for."""
    current = store.readable_current() or next(iter(store.served_before()))
    try:
        manifest = store.manifest(current)
    except StoreError as error:  # damaged: start, say so in /readyz, and let an operator roll back
        logger.error("CURRENT cannot be read: %s", error)
        return
    if manifest.weights_digest != base.weights_digest:
        made_for = " ".join(filter(None, (manifest.model.name, manifest.model.pretrained)))
        asked_for = " ".join(filter(None, (settings.model, settings.pretrained)))
        raise StartupError(
            f"the store {settings.store} was made for the model {made_for} (weights {manifest.weights_digest[:12]}), "
            f"but the settings name {asked_for} (weights {base.weights_digest[:12]}); set KEEPSIGHT_MODEL and "
            "KEEPSIGHT_PRETRAINED to the store's model, or KEEPSIGHT_STORE to another folder"
        )

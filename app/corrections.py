"""Keeps corrections of answers, and queues the job that learns them."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from app.errors import InvalidRequestError
from app.intake.keeping import keeping
from app.intake.names import check_against_known, clean_name
from app.services import Services
from app.serving.answer_ids import read_answer_id
from exchange.contracts import JobRecord
from exchange.corrections import CorrectionLimits, Corrections
from model_store.store import Store
from model_store.types import VersionId
from segp_cl.prompts import DEFAULT_TEMPLATE, as_prompt
from segp_cl.types import LearnedClass

logger = logging.getLogger(__name__)


def corrections_of(services: Services) -> Corrections:
    """Return the corrections that wait in this server's spool."""
    return Corrections(services.spool, CorrectionLimits.of(services.settings))


def right_class(label: str, known: tuple[LearnedClass, ...], *, new_class: bool) -> tuple[str, str | None]:
    """Return the right class of a correction, and the prompt of a class that is to be begun with it.

    Raises:
        InvalidRequestError: it is no class, and `new_class` does not say that it is to become one.
        TaskRefusedError: the name of a new class is invalid.
        ClassExistsError: it differs too little from a known one.
    """
    names = [each.name for each in known]
    if label in names:
        return label, None
    name = clean_name(label)
    if name in names:
        return name, None
    check_against_known([name], names, extend=False)
    if not new_class:
        raise InvalidRequestError(
            f"the served version has no class {name!r}; send new_class=true if it is to become a class"
        )
    return name, as_prompt(DEFAULT_TEMPLATE, name)


@dataclass(frozen=True)
class Answered:
    """What an image was answered, with which probability, and by which version; as far as it is known."""

    label: str | None
    probability: float | None
    by: VersionId | None


def answer_named(text: str, image: bytes, store: Store) -> Answered:
    """Return what the id of an answer says about an image.

    Raises:
        InvalidRequestError: it is no id, or that of the answer to another image, or of another store's version.
    """
    said = read_answer_id(text)
    said.check_image(image)
    if all(said.version_id != entry.to for entry in store.journal()):
        raise InvalidRequestError(f"answer_id: there never was a version {said.version_id} here")
    return Answered(said.label, said.probability, said.version_id)


def check_known(field: str, label: str | None, known: tuple[LearnedClass, ...]) -> None:
    """Refuse a label that is no class.

    Raises:
        InvalidRequestError: it is none.
    """
    if label is not None and label not in {each.name for each in known}:
        raise InvalidRequestError(f"{field}: the served version has no class {label[:200]!r}")


def queue_corrections(services: Services, *, submitted_by: str) -> JobRecord:
    """Queue the job that learns all corrections that wait. Synchronous: run it in a thread.

    Raises:
        NoCorrectionsError: none waits.
        CorrectionsBusyError: another process is at them for long.
        BrokerUnavailableError: Redis is gone; they wait as before.
        SpoolUnusableError: the job cannot be written; they wait as before.
        DamagedPointerError: there is no current version to teach.
    """
    current = services.store.known_current()
    with keeping():
        record = corrections_of(services).learn(services.jobs, submitted_by=submitted_by, submitted_on=current)
    logger.info("corrections accepted job_id=%s corrections=%d", record.job_id, record.job.corrections)
    return record

"""The store's records: JSON in, JSON out, and errors that say what was expected."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime

import pytest
from pydantic import ValidationError

from model_store import types
from model_store.types import JournalEntry, PreprocessingRecord, Provenance
from segp_cl.errors import KeepsightError


def test_journal_entry_writes_from_as_json_key_and_reads_it_back() -> None:
    entry = JournalEntry(at=datetime(2026, 3, 1, tzinfo=UTC), who="ann", action="promote", from_="a", to="b")
    text = entry.model_dump_json(by_alias=True)
    assert json.loads(text)["from"] == "a"
    assert JournalEntry.model_validate_json(text) == entry


def test_journal_entry_refuses_an_unknown_action() -> None:
    with pytest.raises(ValidationError, match="action"):
        JournalEntry.model_validate({"at": "2026-03-01T00:00:00Z", "who": "ann", "action": "delete"})


def test_provenance_turns_tuples_into_lists_and_numbers_json_lacks_into_null() -> None:
    provenance = Provenance(report={"losses": ({"total": float("nan")}, {"total": 1.5}), "best": float("inf")})
    assert provenance.report == {"losses": [{"total": None}, {"total": 1.5}], "best": None}


def test_provenance_refuses_what_json_cannot_hold() -> None:
    with pytest.raises(ValidationError, match="settings"):
        Provenance(settings={"generator": object()})


def test_preprocessing_is_taken_from_any_object_that_has_its_attributes() -> None:
    @dataclass(frozen=True)
    class Preprocessing:
        size: int
        mean: tuple[float, float, float]
        std: tuple[float, float, float]
        interpolation: str = "bicubic"

    provenance = Provenance(preprocessing=Preprocessing(160, (0.5, 0.5, 0.5), (0.2, 0.2, 0.2)))
    assert provenance.preprocessing == PreprocessingRecord(
        size=160, mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2), interpolation="bicubic"
    )


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (types.VersionNotFoundError("000009-0123456789ab"), "no version 000009-0123456789ab"),
        (types.CorruptVersionError("000009-0123456789ab", "manifest.json", "not JSON"), "manifest.json: not JSON"),
        (types.ConflictError("a", "b"), "CURRENT is b, expected a"),
        (types.ConflictError(None, "b"), "CURRENT is b, expected it not to be set"),
        (types.ConflictError("a", None), "CURRENT is not set, expected a"),
        (types.InvalidVersionIdError("../../etc"), "'../../etc' is not a version id"),
    ],
)
def test_errors_say_what_was_got_and_what_was_expected(error: types.StoreError, said: str) -> None:
    assert said in str(error)
    assert isinstance(error, KeepsightError)


def test_importing_the_records_and_the_rules_does_not_import_torch() -> None:
    check = "import sys, model_store.types, model_store.policy; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0

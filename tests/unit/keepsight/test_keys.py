from __future__ import annotations

import json
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from keepsight.keys import KeyFile, KeyFileError, UnknownKeyError


@pytest.fixture
def keys(tmp_path: Path) -> KeyFile:
    return KeyFile(tmp_path / "var" / "keys.json")


def test_a_missing_file_holds_no_keys_and_lets_nobody_in(keys: KeyFile) -> None:
    assert keys.list() == ()
    assert keys.verify("ks_anything") is None


def test_the_token_is_shown_once_and_never_stored(keys: KeyFile) -> None:
    created = keys.create("laptop", ["train", "classify"])
    assert created.token.startswith("ks_")
    assert len(created.token) >= 3 + 43  # 32 bytes, urlsafe
    stored = keys.path.read_text()
    assert created.token not in stored
    assert created.key.sha256 in stored
    assert created.key.scopes == ("classify", "train")


def test_a_token_is_recognised_and_an_altered_one_is_not(keys: KeyFile) -> None:
    first, second = keys.create("one", ["classify"]), keys.create("two", ["admin"])
    assert keys.verify(first.token) == first.key
    assert keys.verify(second.token) == second.key
    assert keys.verify(first.token[:-1] + ("a" if first.token[-1] != "a" else "b")) is None
    assert keys.verify("") is None
    assert keys.verify("\udcff") is None


def test_a_revoked_key_is_listed_but_opens_nothing(keys: KeyFile) -> None:
    created = keys.create("old", ["admin"])
    revoked = keys.revoke(created.key.id)
    assert revoked.revoked_at is not None
    assert keys.verify(created.token) is None
    assert [key.id for key in keys.list()] == [created.key.id]
    assert keys.revoke(created.key.id) == revoked


def test_only_the_owner_may_read_the_file(keys: KeyFile) -> None:
    keys.create("one", ["classify"])
    assert stat.S_IMODE(keys.path.stat().st_mode) == 0o600


def test_another_reader_notices_changes_by_itself(keys: KeyFile) -> None:
    reader = KeyFile(keys.path)
    assert reader.list() == ()
    created = keys.create("late", ["classify"])
    assert reader.verify(created.token) == created.key
    keys.revoke(created.key.id)
    assert reader.verify(created.token) is None


def test_writers_at_the_same_time_lose_no_key(keys: KeyFile) -> None:
    with ThreadPoolExecutor(8) as pool:
        tokens = list(pool.map(lambda n: KeyFile(keys.path).create(f"k{n}", ["classify"]).token, range(24)))
    assert len(keys.list()) == 24
    assert all(keys.verify(token) for token in tokens)
    assert sorted(p.name for p in keys.path.parent.iterdir()) == ["keys.json", "keys.json.lock"]


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"format": 1, "keys": [{}]}', '{"format": 1, "keys": 3}', '{"format": 9, "keys": []}']
)
def test_a_broken_file_lets_nobody_in_and_is_not_overwritten(keys: KeyFile, content: str) -> None:
    keys.path.parent.mkdir(parents=True)
    keys.path.write_text(content)
    with pytest.raises(KeyFileError):
        keys.verify("ks_x")
    with pytest.raises(KeyFileError):
        keys.create("one", ["classify"])
    assert keys.path.read_text() == content


@pytest.mark.parametrize("scopes", [[], ["everything"], ["classify", "root"]])
def test_unknown_or_missing_scopes_are_refused(keys: KeyFile, scopes: list[str]) -> None:
    with pytest.raises(KeyFileError, match="classify, train, admin"):
        keys.create("one", scopes)
    assert not keys.path.exists()


def test_a_key_without_a_name_and_an_unknown_id_are_refused(keys: KeyFile) -> None:
    with pytest.raises(KeyFileError, match="name"):
        keys.create("  ", ["classify"])
    with pytest.raises(UnknownKeyError, match="nope"):
        keys.revoke("nope")


def test_the_file_is_plain_json_with_a_format_number(keys: KeyFile) -> None:
    keys.create("one", ["classify"])
    document = json.loads(keys.path.read_text())
    assert document["format"] == 1
    assert set(document["keys"][0]) == {"id", "name", "scopes", "sha256", "created_at", "revoked_at"}


def test_importing_keys_imports_nothing_heavy() -> None:
    script = "import sys, keepsight.keys; print([m for m in ('torch', 'pydantic', 'fastapi') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout.strip() == "[]"


def test_a_store_remembers_that_there_were_keys_until_it_is_made_to_forget(tmp_path: Path) -> None:
    store = tmp_path / "store"
    store.mkdir()
    path = tmp_path / "keys.json"
    assert not KeyFile(path, store=store).needed()
    KeyFile(path, store=store).create("one", ["classify"])
    assert KeyFile(path, store=store).needed()
    with pytest.raises(KeyFileError, match="holds keys"):
        KeyFile(path, store=store).forget()
    path.unlink()
    with pytest.raises(KeyFileError, match=r"there were API keys.*keys create.*keys forget"):
        KeyFile(path, store=store).needed()
    assert not KeyFile(path).needed(), "without a store nothing is known"
    assert KeyFile(path, store=store).forget()
    assert not KeyFile(path, store=store).needed()
    assert not KeyFile(path, store=store).forget()


def test_a_store_that_does_not_exist_is_not_made(keys: KeyFile, tmp_path: Path) -> None:
    KeyFile(keys.path, store=tmp_path / "no store").create("one", ["classify"])
    assert not (tmp_path / "no store").exists()


@pytest.mark.parametrize("token", ["ks_" + "x" * 10**6, "\udcff", "", "é"])
def test_what_cannot_be_a_token_opens_nothing(keys: KeyFile, token: str) -> None:
    keys.create("one", ["classify"])
    assert keys.verify(token) is None

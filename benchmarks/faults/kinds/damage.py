"""Files and folders of the service that are damaged, deleted, or not what they were."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Final

from benchmarks.faults.fault import ANY_END, Fault
from benchmarks.faults.stage import Stage

Place = Callable[[Stage], Path]
GARBAGE: Final = b"\xff\x00garbage{" * 40


def within_store(*names: str) -> Place:
    """A file of the store."""
    return lambda stage: stage.service.store.joinpath(*names)


def of_version(which: str, *name: str) -> Place:
    """A file, or the folder, of the version that is served (`base`) or of the one before it (`first`)."""
    return lambda stage: stage.service.store.joinpath("versions", getattr(stage, which), *name)


class Change:
    """A file that is changed, and put back as it was when the fault is over.

    Args:
        place: the file or folder.
        become: gets its path after it was moved away, and makes what takes its place; None: nothing does.
    """

    def __init__(self, place: Place, become: Callable[[Path, Path], object] | None) -> None:
        self._place = place
        self._become = become

    def inject(self, stage: Stage) -> None:
        """Move it away and put the other in its place."""
        path, kept = self._place(stage), self._kept(stage)
        shutil.move(path, kept)
        if self._become is not None:
            self._become(path, kept)

    def undo(self, stage: Stage) -> None:
        """Put it back, as an operator does with a backup."""
        path = self._place(stage)
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)
        shutil.move(self._kept(stage), path)

    def _kept(self, stage: Stage) -> Path:
        return stage.service.base.parent / "kept aside"


def garbage(path: Path, was: Path) -> None:
    """Bytes that mean nothing."""
    path.write_bytes(GARBAGE)


def emptied(path: Path, was: Path) -> None:
    """A file without content."""
    path.write_bytes(b"")


def folder(path: Path, was: Path) -> None:
    """A folder where a file should be."""
    path.mkdir()


def one_bit(path: Path, was: Path) -> None:
    """The same with one bit turned over, in the middle."""
    content = bytearray(was.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def half(path: Path, was: Path) -> None:
    """The first half."""
    content = was.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def loop(path: Path, was: Path) -> None:
    """A link that leads to itself."""
    path.symlink_to(path)


def nowhere(path: Path, was: Path) -> None:
    """A version that does not exist."""
    path.write_text("009999-0123456789ab\n")


def delete(*places: Place) -> Callable[[Stage], None]:
    """Delete files, and what folders hold."""

    def inject(stage: Stage) -> None:
        for place in places:
            path = place(stage)
            if path.is_dir():
                for entry in path.iterdir():
                    shutil.rmtree(entry) if entry.is_dir() else entry.unlink(missing_ok=True)
            else:
                path.unlink(missing_ok=True)

    return inject


def remove_spool(stage: Stage) -> None:
    """The spool's folder, with all that is in it."""
    shutil.rmtree(stage.service.spool)


def _changed(name: str, place: Place, become: Callable[[Path, Path], object] | None, *, quick: bool = False) -> Fault:
    change = Change(place, become)
    return Fault(name, change.inject, change.undo, lasts_s=3, job=False, uploads=False, quick=quick)


_CURRENT = within_store("CURRENT")
_JOURNAL = within_store("journal.jsonl")
_TENSORS, _MANIFEST = "tensors.safetensors", "manifest.json"
_STORE_AWAY = Change(lambda stage: stage.service.store, None)
_JOURNAL_SPOILT = Change(_JOURNAL, garbage)

DAMAGE: Final = (
    _changed("CURRENT is garbage", _CURRENT, garbage, quick=True),
    _changed("CURRENT is empty", _CURRENT, emptied),
    _changed("CURRENT is deleted", _CURRENT, None),
    _changed("CURRENT is a folder", _CURRENT, folder),
    _changed("CURRENT is a link to itself", _CURRENT, loop),
    _changed("CURRENT names a version that does not exist", _CURRENT, nowhere),
    _changed("a bit of the served tensors is turned over", of_version("base", _TENSORS), one_bit),
    _changed("the served tensors are deleted", of_version("base", _TENSORS), None),
    _changed("the served manifest is garbage", of_version("base", _MANIFEST), garbage, quick=True),
    _changed("the served manifest is a folder", of_version("base", _MANIFEST), folder),
    _changed("the served version's folder is deleted", of_version("base"), None),
    _changed("an earlier version's tensors are cut off", of_version("first", _TENSORS), half),
    _changed("an earlier version's manifest is empty", of_version("first", _MANIFEST), emptied),
    _changed("the journal is deleted", _JOURNAL, None),
    _changed("the journal is a folder", _JOURNAL, folder),
    _changed("the journal's end is cut off", _JOURNAL, half),
    Fault(
        "the journal is garbage during an update", _JOURNAL_SPOILT.inject, _JOURNAL_SPOILT.undo, ends=ANY_END, lasts_s=6
    ),
    Fault(
        "the store is moved away", _STORE_AWAY.inject, _STORE_AWAY.undo, job=False, lasts_s=5, uploads=True, quick=True
    ),
    Fault("the store is moved away during an update", _STORE_AWAY.inject, _STORE_AWAY.undo, ends=ANY_END, lasts_s=5),
    Fault("the locks are deleted", delete(within_store("store.lock"), within_store("lineage.lock")), uploads=True),
    Fault("the store's temporary folder is emptied", delete(within_store("tmp"))),
    Fault("the spool is removed", remove_spool, job=False, uploads=True),
    Fault("the spool is removed during an update", remove_spool, ends=ANY_END),
    Fault("the service's note is deleted", delete(lambda stage: stage.service.base / "store.up.json")),
    Fault("the logs are deleted", delete(lambda stage: stage.service.base / "log"), job=False, quick=True),
    Fault(
        "the folder for temporary files is removed", lambda stage: shutil.rmtree(stage.service.temporary), uploads=True
    ),
)

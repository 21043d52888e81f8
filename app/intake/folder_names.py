"""What the names of files and folders say: a system's own, a document, an image, a split, or none of a class."""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import StrEnum
from functools import lru_cache


class Kind(StrEnum):
    """What a file is by its name. Its bytes decide later; the name tells which folders are meant as classes."""

    IMAGE = "image"
    DOCUMENT = "document"
    UNKNOWN = "unknown"


class Split(StrEnum):
    """The part of a data set that a folder's name announces."""

    TRAIN = "train"
    VAL = "val"
    TEST = "test"


_SYSTEM = {
    "__macosx": "left by macOS",
    "icon\r": "left by macOS",
    "network trash folder": "left by macOS",
    "temporary items": "left by macOS",
    "thumbs.db": "left by Windows",
    "ehthumbs.db": "left by Windows",
    "desktop.ini": "left by Windows",
    "$recycle.bin": "left by Windows",
    "recycler": "left by Windows",
    "system volume information": "left by Windows",
    "@eadir": "left by a network drive",
    "@tmp": "left by a network drive",
    "#recycle": "left by a network drive",
    "#snapshot": "left by a network drive",
    "@recycle": "left by a network drive",
    "@recently-snapshot": "left by a network drive",
    "lost+found": "left by the file system",
    "__pycache__": "left by Python",
}
_IMAGES = re.compile(
    "a?png|arw|avifs?|bmp|cr[23]|cur|dcm|dds|dib|dng|exr|fits|gif|hdr|hei[cf]s?|hif|ico|j2[ck]|jfif?|jif|jp[2cemfgx]|jpeg|"
    "jxl|jxr|mpo|nef|orf|p[bgnp]m|pcx|psd|qoi|raf|rw2|sgi|svg|tga|tiff?|webp|x[bp]m|xcf"
)
_DOCUMENTS = re.compile(
    "7z|bib|c|cfg|cls|cpp|css|csv|db|dbf|docx?|exif|gz|h|html?|ini|ipynb|js|jsonl?|lnk|log|mat|md|md5|names|ndjson|np[yz]|"
    "odt|parquet|pdf|pkl|pickle|pptx?|pyc?|rar|rst|rtf|sh|sha256|sql|sqlite|tar|tgz|toml|tsv|txt|url|xlsx?|xml|xmp|ya?ml|zip"
)
_DOCUMENT_NAMES = frozenset({"readme", "license", "licence", "copying", "notice", "changelog", "authors", "makefile"})
_SPLIT_WORDS = {
    **dict.fromkeys(("train", "training", "trn"), Split.TRAIN),
    **dict.fromkeys(("val", "valid", "validation", "validate", "dev"), Split.VAL),
    **dict.fromkeys(("test", "testing", "tests"), Split.TEST),
}
_AFTER_A_SPLIT = re.compile(r"(?<=[a-z])(set|sets|data|images|imgs)$")
_DATE = re.compile(r"(19|20)\d\d([-_. ]?[01]\d([-_. ]?[0-3]\d)?)?")
_CONTAINERS = frozenset(
    {"data", "dataset", "datasets", "archive", "image", "images", "img", "imgs", "jpeg", "jpegs", "jpg", "jpgs",
     "png", "pngs", "frames", "raw"}
)  # fmt: skip


def noise_in(parts: Sequence[str]) -> tuple[int, str] | None:
    """Return the first part of a path that is hidden or a system's own, by its position and why; None if there is none.

    Nothing at or below such a part is read.
    """
    for position, part in enumerate(parts):
        reason = _noise(part)
        if reason is not None:
            return position, reason
    return None


@lru_cache(maxsize=10_000)
def _noise(name: str) -> str | None:
    if name.startswith("."):
        return "hidden"
    return "a lock file of an office program" if name.startswith("~$") else _SYSTEM.get(name.casefold())


def kind_of(file_name: str) -> Kind:
    """Return what a file is by its name."""
    stem, dot, suffix = file_name.casefold().rpartition(".")
    if dot and _IMAGES.fullmatch(suffix):
        return Kind.IMAGE
    if (dot and _DOCUMENTS.fullmatch(suffix)) or (stem or suffix) in _DOCUMENT_NAMES:
        return Kind.DOCUMENT
    return Kind.UNKNOWN


def split_of(folder_name: str) -> Split | None:
    """Return the split that a folder's name announces: `train`, `Validation`, `test_set`, `seg_train`, or None."""
    words = re.findall(r"[a-z]+", folder_name.casefold())
    found = {_SPLIT_WORDS.get(_AFTER_A_SPLIT.sub("", word)) for word in words} - {None}
    return found.pop() if len(found) == 1 else None


def is_container(folder_name: str) -> bool:
    """Return whether a folder of this name is more likely to hold classes than to be one."""
    return folder_name.casefold() in _CONTAINERS or split_of(folder_name) is not None


def names_no_class(folder_name: str) -> bool:
    """Return whether a folder's name says nothing of what is on its images: a date, or `images` or the like."""
    return _DATE.fullmatch(folder_name) is not None or folder_name.casefold() in _CONTAINERS

"""Converts what versions answer to test sets to tables and lines."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

from rich.markup import escape
from rich.table import Table

from keepsight.cli.console import moment, percent, seconds, table
from keepsight.client.api import (
    Comparison,
    Manifest,
    OnTestSets,
    Report,
    SetEvaluation,
    StoredTestSetDetails,
    StoredTestSets,
)

_MOST_CLASSES = 10


def size(count: int) -> str:
    """Return a number of bytes for people."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024 or unit == "GiB":
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    raise AssertionError("the last unit returns")


def sets_table(found: StoredTestSets) -> Table:
    """Return a table of the test sets."""
    made = table("test set", ">images", ">classes", ">size", "until", "not known yet")
    for each in found["test_sets"]:
        made.add_row(
            each["name"],
            str(each["images"]),
            str(len(each["images_per_class"])),
            size(each["bytes"]),
            moment(each["expires_at"]),
            escape(_listed(each["unknown"])),
        )
    return made


def set_lines(found: StoredTestSetDetails) -> list[str]:
    """Return one test set in full, as lines for people."""
    classes = ", ".join(f"{name} {count}" for name, count in found["images_per_class"].items())
    lines = [
        f"[bold]{found['name']}[/], {found['images']} images, {size(found['bytes'])}, digest {found['digest'][:12]}",
        f"stored {moment(found['added_at'])} by {escape(found['who'])}, kept until {moment(found['expires_at'])}",
        escape(f"classes: {classes}"),
    ]
    if found["reason"]:
        lines.insert(2, escape(f"why: {found['reason']}"))
    if found["unknown"]:
        lines.append(escape(f"not known to the current version: {_listed(found['unknown'])}"))
    return lines


def evaluations_table(results: Iterable[SetEvaluation]) -> Table:
    """Return a table with a line for each version and test set."""
    made = table("version", "test set", ">images", ">fused", ">text", ">visual", ">ECE", ">strangers", ">flips")
    for found in results:
        overall: Mapping[str, Any] = found["overall"] or {}
        images = str(found["images"])
        if found["images"] < found["images_in_all"]:
            images = f"{images} of {found['images_in_all']}"
        against = found["against"]
        made.add_row(
            found["version_id"] or "–",
            found["test_set"],
            images,
            *(percent(overall.get(path)) for path in ("fused", "text", "visual")),
            percent(found["calibration_error"]),
            str(found["unknown_labels"]) if found["unknown_labels"] else "",
            f"-{against['right_to_wrong']} +{against['wrong_to_right']}" if against else "–",
        )
    return made


def on_test_sets_lines(found: OnTestSets | None) -> list[str]:
    """Return what a version answers to the test sets, a line for each; empty if there are none."""
    if not found:
        return []
    lines = []
    for each in found["results"]:
        overall: Mapping[str, Any] = each["overall"] or {}
        counted = f"{each['images']} of {each['images_in_all']} images"
        line = f"test set {each['test_set']}: fused {percent(overall.get('fused'))} ({counted}"
        if each["unknown_labels"]:
            line += f", {each['unknown_labels']} of classes that are not known"
        if against := each["against"]:
            line += f"; {against['right_to_wrong']} became wrong, {against['wrong_to_right']} right"
        lines.append(f"{line})")
    return lines + [f"test set {name}: not measured: {why}" for name, why in found["not_measured"].items()]


def published_lines(manifest: Manifest) -> list[str]:
    """Return what a version answered to the test sets when it was published."""
    return on_test_sets_lines(cast("OnTestSets | None", (manifest["report"] or {}).get("test_sets")))


def report_table(report: Report) -> Table:
    """Return R as a table: a line after each task, a column for each task; `*` marks what rests on a part of a set."""
    made = table("version", ">tasks", *(f">task {task['task']}" for task in report["tasks"]), ">all seen")
    for row in report["rows"]:
        made.add_row(
            row["version_id"] + ("*" if row["in_part"] else ""),
            str(row["tasks"]),
            *(percent(accuracy) for accuracy in row["accuracies"]),
            percent(row["seen"]),
        )
    return made


def report_lines(report: Report) -> list[str]:
    """Return what follows from R, and what is missing."""
    named = (
        ("Last", "last"),
        ("Avg", "average"),
        ("backward transfer", "backward_transfer"),
        ("forgetting", "forgetting"),
    )
    found: Mapping[str, Any] = report
    lines = [f"{', '.join(f'{name} {percent(found[key])}' for name, key in named)} ({report['path']} path)"]
    counts = ", ".join(f"task {task['task']}: {task['test_images']}" for task in report["tasks"])
    lines.append(f"test images by task: {counts or 'none'}; test sets: {', '.join(report['test_sets']) or 'none'}")
    if any(row["in_part"] for row in report["rows"]):
        lines.append("* measured on a part of a test set")
    if report["measure"]:
        lines.append(
            f"not measured: {len(report['not_measured'])} versions and sets; measure them: {report['measure']}"
        )
    return lines


def comparison_table(found: Comparison) -> Table:
    """Return a table with a line for each test set, and one for all."""
    made = table("test set", ">images", ">a right", ">b right", ">a wins", ">b wins", ">ties", ">p")
    for each in [*found["test_sets"], found["overall"]]:
        images = max(1, each["images"])
        made.add_row(
            (each["test_set"] or "all") + ("*" if each["in_part"] else ""),
            str(each["images"]),
            percent(each["right_a"] / images),
            percent(each["right_b"] / images),
            str(each["wins"]),
            str(each["losses"]),
            str(each["ties"]),
            f"{each['p_value']:.3g}",
        )
    return made


def comparison_lines(found: Comparison) -> list[str]:
    """Return what else differs between two versions."""
    lines = [f"a is {found['a']}, b is {found['b']}; p is that of the exact sign test, two-sided"]
    overall = found["overall"]
    if overall["only_a_knows"] or overall["only_b_knows"]:
        only = f"{overall['only_a_knows']} of classes that a alone knows, {overall['only_b_knows']} that b alone knows"
        lines.append(f"not compared: images {only}")
    differ = [each for each in found["per_class"] if each["wins"] != each["losses"]][:_MOST_CLASSES]
    lines += [
        f"  {each['label']}: a has {each['right_a']} of {each['images']} right, b {each['right_b']}" for each in differ
    ]
    lines.append(f"{found['changed_count']} images are answered differently")
    for side in ("a", "b"):
        cost = found["cost"][side]
        bytes_of = "unknown size" if cost["bytes"] is None else size(cost["bytes"])
        lines.append(f"cost of {side}: {bytes_of}, made in {seconds(cost['update_s'])}")
    if found["measure"]:
        lines.append(f"not measured on every set: {found['measure']}")
    return lines


def _listed(names: Sequence[str], most: int = 5) -> str:
    shown = ", ".join(names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown

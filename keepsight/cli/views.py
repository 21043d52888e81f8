"""Converts the service's answers to tables and sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

from rich.markup import escape
from rich.table import Table
from rich.tree import Tree

from keepsight.cli.console import moment, percent, seconds, table
from keepsight.cli.follow import eta_text, phase_text
from keepsight.cli.intake import MOST_LISTED, intake_lines
from keepsight.client.api import (
    Classes,
    Contributions,
    CorrectionReport,
    Corrections,
    EditPreview,
    Gate,
    GateResult,
    ImageResult,
    Instant,
    Job,
    JobResult,
    LabelReport,
    Manifest,
    Rollout,
    Versions,
)


def classification_table(results: Sequence[ImageResult]) -> Table:
    """Return a table with one line per image and prediction; sets of labels and strange images have a column more."""
    with_sets = any(result.get("label_set") is not None for result in results)
    with_unknown = any(result.get("unknown") for result in results)
    columns = ["set"] * with_sets + ["unknown"] * with_unknown
    made = table("image", "label", ">probability", ">score", ">text", ">visual", *columns)
    for result in results:
        name = escape(result["filename"] or str(result["index"]))
        if result["error"]:
            made.add_row(name, "[red]not classified")
            continue
        more = [escape(", ".join(result.get("label_set") or ()))] * with_sets
        more += [f"[yellow]{percent(result.get('unknown_score') or 0)}" if result.get("unknown") else ""] * with_unknown
        for p in result["predictions"]:
            scores = (p["score"], p["text_score"], p["visual_score"])
            made.add_row(
                name,
                escape(p["label"]),
                percent(p["probability"]),
                *("–" if s is None else f"{s:.3f}" for s in scores),
                *more,
            )
            name, more = "", []
    return made


def jobs_table(jobs: Sequence[Job]) -> Table:
    """Return a table of all jobs, as the service lists them."""
    made = table("job", "name", "state", ">step", "left", "created", "version")
    for job in jobs:
        progress, result = job["progress"], job["result"]
        running = job["state"] == "running" and progress is not None
        made.add_row(
            job["job_id"],
            escape(job["name"]),
            phase_text(job) if running else job["state"],
            f"{progress['step']}/{progress['steps']}" if running and progress else "",
            eta_text(job).removesuffix(" left"),
            moment(job["created_at"]),
            result_text(result) if result else "–",
        )
    return made


def job_lines(job: Job) -> list[str]:
    """Return one job in full, as lines for people."""
    lines = [
        f"[bold]{escape(job['name'])}[/] ({job['job_id']}): {job['state']}",
        f"created {moment(job['created_at'])}, started {moment(job['started_at'])}, "
        f"finished {moment(job['finished_at'])}, attempts {job['attempts']}",
    ]
    if validation := job["validation"]:
        lines += map(escape, intake_lines(validation, most=MOST_LISTED))
    if job["state"] == "running" and (progress := job["progress"]):
        lines.append(f"{progress['phase']} {progress['step']}/{progress['steps']} {eta_text(job)}".rstrip())
    if instant := job.get("instant"):
        lines.append(escape(instant_line(instant)))
    if contributions := job.get("contributions"):
        lines += contribution_lines(contributions)
    if labels := job.get("labels"):
        lines += map(escape, label_lines(labels))
    if result := job["result"]:
        lines.append(escape(outcome_sentence(job)))
        lines += map(escape, correction_lines(result))
        if result["version_id"] and not job.get("corrections"):
            lines.append(accuracy_line(result["evaluation"]))
        if gate := result.get("gate"):
            lines += map(escape, gate_lines(gate))
    if error := job["error"]:
        lines.append(f"[red]{escape(problem_sentence(error))}")
    if receipt := job.get("receipt"):
        learned = "learned" if receipt["learned"] else "not learned"
        lines.append(
            f"{receipt['corrections']} corrections were {learned}; their images were removed at "
            f"{moment(receipt['removed_at'])}"
        )
    return lines


def instant_line(instant: Instant) -> str:
    """Return what became of a job's instant version."""
    if error := instant["error"]:
        return f"no instant version: {error['message']}"
    numbers = overall(instant["evaluation"])
    accuracy = f" (fused {percent(numbers.get('fused'))} on {measured_images(numbers)})" if numbers else ""
    what = "served" if instant["promoted"] else f"not served: {instant['not_promoted_because']}"
    return f"instant version {instant['version_id']}{accuracy} after {seconds(instant['seconds'])}; {what}"


MOST_LABELS = 10


def label_lines(labels: LabelReport) -> list[str]:
    """Return what looks wrong in the labels of an upload."""
    lines = []
    for wrong in labels["likely_wrong"][:MOST_LABELS]:
        likely = f"{wrong['likely']} ({percent(wrong['likely_probability'])})"
        label = f"{wrong['label']} ({percent(wrong['label_probability'])})"
        lines.append(f"label likely wrong: {wrong['path']} looks like {likely}, not like {label}")
    if (more := labels["likely_wrong_count"] - len(labels["likely_wrong"][:MOST_LABELS])) > 0:
        lines.append(f"and {more} more labels that are likely wrong")
    for pair in labels["nearly_same"][:MOST_LABELS]:
        other = f"{pair['other_path']} ({pair['other_label']})"
        lines.append(f"nearly the same picture: {pair['path']} ({pair['label']}) and {other}")
    if (more := labels["nearly_same_count"] - len(labels["nearly_same"][:MOST_LABELS])) > 0:
        lines.append(f"and {more} more pairs of nearly the same picture")
    return lines


def correction_lines(result: JobResult) -> list[str]:
    """Return what the corrections did that a job has learned, if it learned some."""
    found = (result.get("report") or {}).get("corrections")
    if found is None:
        return []
    report = cast("CorrectionReport", found)
    flipped = f"{report['sampled_flipped']} of {report['sampled']} sampled features of all classes"
    lines = [
        f"corrections: {report['right_before']} of {report['corrections']} were right before, {report['right_now']} "
        f"are now ({report['mended']} mended, {report['spoiled']} spoiled); {flipped} get another answer"
    ]
    if report["left_out"]:
        lines.append(f"{report['left_out']} were left out: their classes are no longer known")
    return lines


def corrections_table(found: Corrections) -> Table:
    """Return a table of the corrections that wait."""
    made = table(">number", "label", "answered", ">probability", "taught as", "by", "at", "expires")
    for each in found["corrections"]:
        made.add_row(
            str(each["number"]),
            escape(each["label"]) + (" (new)" if each["new_class"] else ""),
            escape(each["answered"] or "–"),
            "–" if each["probability"] is None else percent(each["probability"]),
            escape(each["taught_as"] or "–"),
            escape(each["corrected_by"]),
            moment(each["at"]),
            moment(each["expires_at"]),
        )
    return made


def corrections_line(found: Corrections) -> str:
    """Return how many wait, and when they are learned."""
    count = len(found["corrections"])
    when = []
    if at_count := found["learned_at_count"]:
        when.append(f"at {at_count}")
    if after_s := found["learned_after_s"]:
        when.append(f"when the oldest has waited for {seconds(after_s)}")
    learned = f"learned {' or '.join(when)}" if when else "learned when you ask for it"
    return f"{count} correction{'' if count == 1 else 's'} wait{'s' if count == 1 else ''}; {learned}."


def result_text(result: JobResult) -> str:
    """Return the version that a job made, and whether the gate holds it."""
    version = result["version_id"] or "–"
    return f"{version} (held)" if result.get("held_because") else version


def gate_lines(gate: GateResult) -> list[str]:
    """Return what the gate found, a line for each check."""
    if not gate["enabled"]:
        return ["gate: off"]
    lines = []
    for check in gate["checks"]:
        found = "passed" if check["passed"] else "not judged" if check["passed"] is None else "not passed"
        told = "" if check["passed"] else f": {check['reason']}"
        lines.append(f"gate, {check['name']}: {found} ({check['images']} images){told}")
    return lines


def gate_table(gate: Gate) -> Table:
    """Return a table of the policy's fields."""
    made = table("field", ">value")
    for name, value in gate["policy"].items():
        made.add_row(name, str(value).lower() if isinstance(value, bool) else f"{value:g}")
    return made


def outcome_sentence(job: Job) -> str:
    """Return what became of a finished job."""
    result, error = job["result"], job["error"]
    if job["state"] == "succeeded" and result:
        if job.get("dry_run"):
            return "its images were checked; nothing was learned"
        if job.get("evaluates"):
            return "measured; nothing was published"
        if result["promoted"]:
            return f"version {result['version_id']} is published and current"
        version = result["version_id"]
        if reasons := result.get("held_because"):
            return (
                f"version {version} is published and held: {'; '.join(reasons)} "
                f"(keepsight promote {version} --anyway --reason TEXT serves it all the same)"
            )
        return f"version {version} is published but not promoted: {result['not_promoted_because']}"
    if job["state"] == "cancelled":
        instant = job.get("instant")
        if instant and instant["promoted"]:
            return f"cancelled; its instant version {instant['version_id']} stays until a rollback"
        return "cancelled; nothing was published"
    if error:
        return f"{job['state']}: {problem_sentence(error)}"
    return job["state"]


def problem_sentence(problem: Mapping[str, object]) -> str:
    """Return the sentence of an RFC 9457 problem."""
    return str(problem.get("detail") or problem.get("title") or "no reason was given")


def remains_lines(job: Job) -> list[str]:
    """Return what an edit that took a class away could not take away, as lines for people."""
    report = job["result"]["report"] if job["result"] else None
    told = (report or {}).get("edit")
    remains = told.get("remains") if isinstance(told, Mapping) else None
    return [f"remains: {what}" for what in remains] if isinstance(remains, list) else []


def edit_preview_lines(found: EditPreview) -> list[str]:
    """Return what an edit would change, in sentences."""
    before, after = found["classes_before"], found["classes_after"]
    lines = [f"This would {found['words']}, on {found['version_id']}. Nothing was changed."]
    lines.append(f"Classes: {before}, as before." if before == after else f"Classes: {before} now, {after} then.")
    for facts in found["affected"]:
        accuracy = "" if facts["accuracy"] is None else f", accuracy {facts['accuracy']:.0%}"
        near = "" if facts["nearest"] is None else f", nearest to {facts['nearest']['label']}"
        lines.append(f"{facts['name']}: {facts['images']} images{accuracy}{near}.")
    lines += [f"Test set {each['test_set']}: {each['images']} images of them." for each in found["test_sets"]]
    lines += [f"Removed: {what}." for what in found["removed"]]
    lines += [f"Remains: {what}." for what in found["remains"]]
    return lines


def classes_table(found: Classes) -> Table:
    """Return a table of the classes that are served."""
    made = table("class", ">images", ">task", "prompt")
    for known in found["classes"]:
        made.add_row(escape(known["name"]), str(known["images"]), str(known["task"]), escape(known["prompt"]))
    return made


def versions_table(versions: Versions) -> Table:
    """Return a table of versions, newest first; `●` is current, `○` is what this server serves if that differs."""
    made = table("", "version", "parent", "created", ">tasks", ">classes", "strategy", "dataset", ">accuracy", "")
    for version in sorted(versions["versions"], key=lambda v: v["number"], reverse=True):
        current = version["version_id"] == versions["current"]
        serving = version["version_id"] == versions["serving"]
        made.add_row(
            "[green]●[/]" if current else "○" if serving else "",
            f"[bold]{version['version_id']}[/]" if current else version["version_id"],
            " + ".join(filter(None, (version["parent"], version.get("other_parent")))) or "–",
            moment(version["created_at"]),
            str(version["tasks"]),
            str(version["classes"]),
            "instant" if version.get("made") == "instant" else version["strategy"] or "–",
            escape(version.get("edited") or version["dataset"] or "–"),
            percent(headline_accuracy(version["evaluation"])),
            ", ".join(
                word for word, is_so in (("pinned", version["pinned"]), ("held", version.get("held_because"))) if is_so
            ),
        )
    return made


def lineage_tree(versions: Versions) -> Tree:
    """Return the versions as a tree, each below its parent; a merged one names its other parent. `●` is current."""
    tree = Tree("versions", hide_root=True)
    places: dict[str, Tree] = {}
    for version in sorted(versions["versions"], key=lambda v: v["number"]):
        name = version["version_id"]
        line = f"[green]●[/] [bold]{name}[/]" if name == versions["current"] else name
        what = version.get("made") or version["strategy"] or "first"
        said = [what, escape(version["dataset"] or ""), f"{version['classes']} classes"]
        if edited := version.get("edited"):
            said[1] = escape(edited)
        if other := version.get("other_parent"):
            said[1] = f"with {other}"
        if version.get("held_because"):
            said.append("held")
        branch = places.get(version["parent"] or "", tree)
        places[name] = branch.add(f"{line}  [dim]{', '.join(filter(None, said))}[/]")
    return tree


def version_lines(manifest: Manifest, contributions: Contributions | None) -> list[str]:
    """Return one version in full, as lines for people."""
    parents = " and ".join(filter(None, (manifest["parent"], manifest.get("other_parent"))))
    made = manifest.get("made") or manifest["strategy"] or "the first version"
    dataset = manifest["dataset"]
    lines = [
        f"[bold]{manifest['version_id']}[/], {made}, made {moment(manifest['created_at'])}",
        f"parents: {parents}" if parents else "no parent",
        f"{len(manifest['classes'])} classes of {manifest['tasks']} tasks",
    ]
    if dataset is not None:
        lines.append(escape(f"learned {dataset['name']!r}: {', '.join(dataset['images_per_class'])}"))
    lines.append(accuracy_line(manifest["evaluation"]))
    return lines + (contribution_lines(contributions) if contributions else [])


def contribution_lines(report: Contributions, *, most: int = 3) -> list[str]:
    """Return what new classes have in common with the old ones, as lines for people."""
    lines = [f"{report['new_classes']} new classes beside {report['old_classes']} old ones, before learning:"]
    for modality, pairs in report["nearest"].items():
        near = ", ".join(f"{pair['old']} and {pair['new']} {pair['cosine']:.2f}" for pair in pairs[:most])
        lines.append(escape(f"  nearest, {modality.replace('_', ' ')}: {near}"))
    if report["at_risk"]:
        named = ", ".join(f"{risk['old']} (taken for {risk['new']})" for risk in report["at_risk"][:most])
        lines.append(escape(f"  at risk: {report['at_risk_count']} of the old classes, such as {named}"))
    else:
        lines.append("  at risk: none of the old classes is nearer to a new one's text than to its own")
    if forecast := report["forecast"]:
        measured = ", ".join(f"{name} {value:+.2f}" for name, value in forecast["correlation"].items())
        tasks = ", ".join(map(str, forecast["most_affected"][:most]))
        rests_on = f"correlation on benchmarks: {measured or 'not measured'}"
        lines.append(f"  forecast, no promise: most is lost of task {tasks} ({rests_on})")
    else:
        lines.append(f"  no forecast: {report['no_forecast_because']}")
    return lines


def rollout_table(rollout: Rollout) -> Table:
    """Return a table with one line per server, and the reason if it does not serve CURRENT."""
    made = table("server", "device", "serving", "state", "reason")
    for process in rollout["processes"]:
        wrong = process["state"] in ("refused", "behind", "dead")
        made.add_row(
            escape(process["id"]),
            escape(process["device"]),
            process["serving"] or "–",
            f"[red]{process['state']}[/]" if wrong else process["state"],
            escape(process["reason"] or ""),
        )
    return made


def rollout_line(rollout: Rollout) -> str:
    """Return a sentence with the current version and the one that is being prepared."""
    current = f"Current is {rollout['current'] or 'none'}"
    return f"{current}; {rollout['target']} is being prepared." if rollout["target"] else f"{current}."


def headline_accuracy(evaluation: Mapping[str, object] | None) -> float | None:
    """Return the one number that a table shows: accuracy of the fused path on all measured images."""
    value = overall(evaluation).get("fused")
    return float(value) if isinstance(value, int | float) else None


def overall(evaluation: Mapping[str, object] | None) -> Mapping[str, object]:
    """Return the part of an evaluation over all images; empty if nothing was measured."""
    evaluation = evaluation or {}
    found = evaluation.get("overall", evaluation)  # a version's summary holds just this part
    return found if isinstance(found, Mapping) else {}


def accuracy_line(evaluation: Mapping[str, object] | None) -> str:
    """Return an evaluation as one line."""
    numbers = overall(evaluation)
    if not numbers:
        return "accuracy unknown: nothing was measured"
    paths = ", ".join(f"{path} {percent(numbers.get(path))}" for path in ("fused", "text", "visual"))
    return f"accuracy on {measured_images(numbers)}: {paths}"


def measured_images(numbers: Mapping[str, object]) -> str:
    """Return on what images the overall part of an evaluation rests. That of an earlier release has held-out ones."""

    def count(name: str) -> int:
        value = numbers.get(name)
        return value if isinstance(value, int) else 0

    left, only, missing = count("left_one_out"), count("only_images"), count("classes_not_measured")
    held_out = count("images") - left
    parts = [f"{held_out} held-out image{'s' * (held_out != 1)}"] if held_out or not left else []
    if left:
        alone = (
            f" ({only} of them the only one of {'its' if only == 1 else 'their'} class, by text alone)" if only else ""
        )
        parts.append(f"{left} left out in turn{alone}")
    if missing:
        parts.append(f"{missing} class{'es' * (missing != 1)} not measured")
    return ", ".join(parts)

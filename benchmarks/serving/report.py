"""The page: figures against aims, conditions, and what was thrown away. Drawn from the summary alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.common.pages import NOTHING, measured_on, number, table
from benchmarks.common.record import load_json, save_files
from benchmarks.serving.figures import AIMS
from benchmarks.serving.foreign import NOISE_RULE
from benchmarks.serving.plots import plots
from benchmarks.serving.record import SUMMARY

Record = Mapping[str, Any]
_MET = {True: "yes", False: "**no**", None: NOTHING}
_CAPTIONS = {
    "throughput.png": "Throughput and CPU time a request, by clients",
    "latency.png": "Latency while a swap is under way and in between",
    "memory.png": "Memory after each swap",
    "timeline.png": "Every request of the run with swaps",
}


def write_report(out: Path) -> None:
    """Draw `report.md` and the plots anew from `summary.json`."""
    found = load_json(out / SUMMARY)
    drawn = plots(found.get("samples", {}))
    save_files(out, {**drawn, "report.md": page(found, list(drawn)).encode()})


def page(found: Record, drawn: Sequence[str]) -> str:
    """The whole page."""
    samples = found.get("samples", {})
    parts = [
        "# What serving costs",
        "The server beside the bare model, beside other servers, and while versions change. Everything runs on one "
        "machine over 127.0.0.1, with a closed loop of clients in a process of its own; sides are measured in short "
        "windows in turn, the others being stopped meanwhile, and are to be read as ratios within one run. Written by "
        "`python -m benchmarks.serving`; every sample is in `summary.json`.",
    ]
    if any(part["plan"]["quick"] for part in samples.values()):
        parts.append("**A quick run**: sizes are cut down to show that it works. These figures mean nothing.")
    rows = [
        (
            f"`{aim.name}`",
            aim.words,
            f"{aim.kind} {aim.bound:g}",
            number(found.get(aim.name)),
            _MET[aim.met(found.get(aim.name))],
        )
        for aim in AIMS
    ]
    parts += ["## Figures and aims", table(("figure", "what", "aim", "measured", "met"), rows)]
    parts += _missing(found.get("missing", {}))
    for name, write in _PARTS:
        if name in samples and not samples[name].get("failed"):
            parts += write(found, samples[name])
    parts += [f"![{_CAPTIONS[name]}]({name})" for name in drawn]
    parts += ["## Conditions", NOISE_RULE, _loads(samples)]
    return "\n\n".join(parts) + "\n"


def _missing(missing: Record) -> list[str]:
    reasons = [
        f"- {name}: {' '.join(str(why).split())[:400]}" for part in missing.values() for name, why in part.items()
    ]
    return ["**Not measured:**", "\n".join(reasons)] if reasons else []


def _bare(found: Record, part: Record) -> list[str]:
    rows = []
    for model, detail in part["models"].items():
        for what in ("throughput", "p50"):
            ratios = detail[f"{what}_ratios"]
            scatter = f"{min(ratios):.2f} to {max(ratios):.2f}" if ratios else NOTHING
            rows.append((model, what, number(found.get(f"{what}_ratio_{model}")), scatter))
    loops = "; ".join(
        f"{model}: {d['loop'].get('engine', 'torch')}, batches of {d['loop']['batch']}, {d['loop']['decoders']} threads"
        for model, d in part["models"].items()
    )
    return [
        "## Beside the bare model",
        _conditions(part),
        "The bare loop decodes the same files in the same order by a pool of threads while the batch before runs, with "
        f"the best of the engines and settings that were tried ({loops}). For p50 it takes one image after another, "
        "with the engine that is faster.",
        table(("model", "what", "ratio", "by round"), rows),
    ]


def _peers(found: Record, part: Record) -> list[str]:
    rows = [
        (clients, name, number(values["per_s"]), number(values["cpu_ms"]), number(values["client_cpu_ms"]))
        for clients, row in part["table"].items()
        for name, values in row.items()
    ]
    costs = [
        (clients, number(found.get(f"best_peer_ratio_c{clients}")), number(found.get(f"cpu_ratio_c{clients}")))
        for clients in part["table"]
    ]
    settings = [
        f"- {name} {', '.join(f'{k} {v}' for k, v in sorted(detail['versions'].items()))}: `{detail['settings']}`, the "
        f"best of {len(detail['tried'])} that were tried"
        for name, detail in part["peers"].items()
    ]
    return [
        "## Beside other servers",
        _conditions(part),
        "ViT-B-32 with the same weights and as many threads everywhere. infinity gives vectors only, so it is held "
        "against `POST /v1/embeddings`, the others against `POST /v1/classify`; each gets its images in the form that "
        "costs it least. CPU is that of a server's whole tree of processes. Least cosine between infinity's vectors "
        f"and ours, less their means: {number(part['infinity_least_centred_cosine'])}.",
        "\n".join(settings),
        table(("clients", "throughput, ours over the best", "CPU a request, the cheapest over ours"), costs),
        table(("clients", "server", "requests/s", "CPU ms", "client's CPU ms"), rows),
    ]


def _swaps(found: Record, part: Record) -> list[str]:
    verdict = part["verdict"]
    rows = [
        ("requests", number(verdict["requests"])),
        ("p50, p99 in ms during swaps", f"{number(found.get('swap_p50_ms'))}, {number(found.get('swap_p99_ms'))}"),
        ("p50, p99 in ms in between", f"{number(found.get('steady_p50_ms'))}, {number(found.get('steady_p99_ms'))}"),
        ("s of a call, median", number(found.get("swap_call_s"))),
        ("ms from the pointer's move until all serve it", number(found.get("commit_ms_under_load"))),
    ]
    first = [f"First that {name}: `{text[:300]}`" for name, text in verdict["first"].items()]
    return [
        "## Changing versions under load",
        _conditions(part),
        f"{len(part['swaps'])} swaps between two versions with {part['plan']['swap_clients']} clients on "
        f"{part['api_processes']} server process(es), every fifth request with four images. A request counts as during "
        "a swap if any of it lies between the call and 100 ms after its end. An answer is one version's own if all its "
        f"scores are those that this version gave in quiet. Memory is {part['memory_counted_as']}.",
        table(("what", "measured"), rows),
        *first,
    ]


def _commit(found: Record, part: Record) -> list[str]:
    rows = []
    for model in part["models"]:
        keys = (
            "cold_commit_s",
            "cold_commit_s_most",
            "prepared_commit_ms",
            "prepared_commit_ms_most",
            "prepared_call_ms",
        )
        rows.append((model, *(number(found.get(f"{key}_{model}")) for key in keys)))
    return [
        "## Changing versions without load",
        _conditions(part),
        f"On {part['api_processes']} server process(es). Cold: the whole call of a promote to a version that no "
        "process has in memory, until all serve it. Prepared: rollbacks to one that all have.",
        table(("model", "cold s", "most", "prepared ms", "most", "prepared, whole call, ms"), rows),
    ]


def _abuse(found: Record, part: Record) -> list[str]:
    rows = [(kind, ", ".join(f"{s}: {c}" for s, c in statuses.items())) for kind, statuses in part["answers"].items()]
    return [
        "## Clients that misbehave",
        _conditions(part),
        f"{part['plan']['abuse_requests']:,} requests, {part['plan']['abuse_share']:.0%} of them misdeeds. Answered "
        f"otherwise than they should be: {found.get('abuse_wrong')}. Stuck afterwards: {found.get('abuse_stuck')} "
        f"(after {number(found.get('abuse_settled_s'))} s). Memory after over before: "
        f"{number(found.get('abuse_memory_ratio'))}. Eight images of which one is none give seven answers and one "
        f"error: {_MET[found.get('abuse_eight_images_one_bad')]}.",
        table(("kind", "answers"), rows),
    ]


def _gain(found: Record, part: Record) -> list[str]:
    gains = part["gains"]
    scatter = f"{min(gains):.2f} to {max(gains):.2f}" if gains else NOTHING
    rows = [
        (what, number(found.get(key)))
        for what, key in (
            ("requests/s, now over before", "compact_gain_c16"),
            ("CPU a request, before over now", "compact_cpu_gain_c16"),
        )
    ]
    return [
        "## Beside this code before engines",
        _conditions(part),
        f"`compact` at 16 clients, beside the server of commit {part['before']}, which runs versions by PyTorch alone; "
        f"by round {scatter}.",
        table(("what", "measured"), rows),
    ]


def _prepare(found: Record, part: Record) -> list[str]:
    keys = ("prepare_s", "prepare_s_most", "prepare_mib", "open_engine_s", "convert_s")
    rows = [(model, *(number(found.get(f"{key}_{model}")) for key in keys)) for model in part["models"]]
    return [
        "## Preparing versions",
        _conditions(part),
        "From the files of a version to its golden answers: read, compiled with its own weights, compared with "
        "PyTorch, warmed. Versions of `compact` leave the image tower as it is and share the base model's. Memory is "
        "what a process grows by with each version that it keeps.",
        table(("model", "s", "most", "MiB", "s to open the engine", "s to convert first"), rows),
    ]


def _start(found: Record, part: Record) -> list[str]:
    keys = (
        ("seconds until `/readyz` answers 200", "ready_s_compact"),
        ("the slowest", "ready_s_most_compact"),
        ("MiB that the server holds at rest", "rest_mib_compact"),
        ("of them its own alone", "rest_private_mib_compact"),
        (f"MiB after {part['versions']} versions", "rest_mib_compact_50"),
        ("of them its own alone", "rest_private_mib_compact_50"),
    )
    return [
        "## Starting",
        _conditions(part),
        f"`keepsight up` with broker, worker and one server, `compact`, {len(part['starts'])} times after a first time "
        "that does not count: that one converts the model. Memory is resident (RSS) of the server process, code that "
        "processes share included; its own alone are private pages. A version counts once it was served.",
        table(("what", "measured"), [(what, number(found.get(key))) for what, key in keys]),
    ]


_PARTS = (
    ("bare", _bare),
    ("peers", _peers),
    ("gain", _gain),
    ("swaps", _swaps),
    ("commit", _commit),
    ("prepare", _prepare),
    ("start", _start),
    ("abuse", _abuse),
)


def _conditions(part: Record) -> str:
    return measured_on(part.get("environment", {}), quick=part["plan"]["quick"])


def _loads(samples: Mapping[str, Record]) -> str:
    rows = [
        (
            name,
            *(number(part["load"][key]) for key in ("windows", "thrown_away", "noisy")),
            f"{number(part['load']['foreign_cores_median'])}, {number(part['load']['foreign_cores_most'])}",
            f"{part['seconds']} s",
        )
        for name, part in samples.items()
        if not part.get("failed")
    ]
    return table(("part", "windows", "thrown away", "noisy", "foreign cores: median, most", "took"), rows)

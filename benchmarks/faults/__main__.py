"""`python -m benchmarks.faults`: try every fault and every bad input on a running service, and write the record."""

from __future__ import annotations

import signal
import tempfile
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress

from benchmarks.common.models import write_small_vit
from benchmarks.common.options import ONLY, Out, Quick
from benchmarks.common.progress import quiet_bar
from benchmarks.common.record import load_json
from benchmarks.faults.abuse import Abuse, abuse
from benchmarks.faults.fault import Fault
from benchmarks.faults.inputs import COUNTS, QUICK, bad_inputs
from benchmarks.faults.kinds import FAULTS
from benchmarks.faults.record import AIMS, SUMMARY, added_to, met, record, save
from benchmarks.faults.runner import stage, try_all
from benchmarks.faults.service import ServiceError
from benchmarks.faults.trial import Outcome

INPUTS = "inputs"
app = typer.Typer(add_completion=False)


@app.command()
def main(
    only: Annotated[list[str] | None, ONLY] = None,
    out: Out = Path("docs/results/faults"),
    quick: Quick = False,
    seed: Annotated[int, typer.Option(help="Of pictures and bad inputs: the same seed makes the same ones.")] = 0,
    model: Annotated[
        str | None, typer.Option(help="Base model of the service [default: a small one with random weights]")
    ] = None,
    show: Annotated[bool, typer.Option("--list", help="List the faults, and do nothing else.")] = False,
) -> None:
    """Try what the service bears: bad inputs, then faults one at a time, while a client is answered all along.

    Ctrl-C among the faults ends them, and what was found is written. --only takes a fault's name, a piece of it, or
    `inputs`. Disks are filled only where mounting is permitted (root). The service runs in a temporary folder; nothing
    else on the machine is touched.
    """
    chosen = [fault for fault in FAULTS if _wanted(fault, only, quick=quick)]
    if show:
        for fault in chosen:
            print(fault.name)
        return
    console = Console(stderr=True)
    counts = (QUICK if quick else COUNTS) if only is None or INPUTS in only else {}
    if not chosen and not counts:
        raise typer.BadParameter(
            f"no fault's name holds {', '.join(only or ())}; --list names them", param_hint="--only"
        )
    with tempfile.TemporaryDirectory(prefix="keepsight-faults-", ignore_cleanup_errors=True) as work:
        folder = Path(work)
        spec = model or write_small_vit(folder).name
        with quiet_bar(console) as bar:
            abused = _inputs(counts, folder, spec, seed, bar) if counts else None
            outcomes = _faults(chosen, folder, spec, seed, bar, console)
    untried, whole = [fault.name for fault in chosen[len(outcomes) :]], only is None
    if only is not None and (before := load_json(out / SUMMARY)):
        outcomes, abused = added_to(before, outcomes, abused)
        tried = {outcome.fault for outcome in outcomes}
        untried, whole = [name for name in (*before["untried"], *untried) if name not in tried], not before["quick"]
    kept = record(outcomes, abused, quick=quick or not whole, seed=seed, model=model or "small ViT", untried=untried)
    save(out, kept)
    _conclude(console, kept, abused)
    if any(outcome.problems for outcome in outcomes) or (abused and abused.problems):
        raise typer.Exit(1)


def _wanted(fault: Fault, only: list[str] | None, *, quick: bool) -> bool:
    if only is not None:
        return any(name.lower() in fault.name.lower() for name in only if name != INPUTS)
    return fault.quick or not quick


def _faults(chosen: list[Fault], folder: Path, model: str, seed: int, bar: Progress, console: Console) -> list[Outcome]:
    task = bar.add_task("faults", total=len(chosen))
    outcomes: list[Outcome] = []

    def found(outcome: Outcome) -> None:
        outcomes.append(outcome)
        bar.advance(task)
        if outcome.skipped:
            console.print(f"{outcome.fault}: skipped, {outcome.skipped}", highlight=False, markup=False)
        for problem in outcome.problems:
            console.print(f"{outcome.fault}: {problem}", highlight=False, markup=False)

    def tell(name: str) -> None:
        bar.update(task, description=name)

    if chosen:
        try:
            try_all(chosen, folder, model=model, seed=seed, tell=tell, found=found)
        except ServiceError as error:  # what was found before it is worth keeping
            found(Outcome("start of a service", problems=[str(error)]))
        except KeyboardInterrupt:
            console.print("stopped; the record says what was not tried")
    return outcomes


def _inputs(counts: dict[str, int], folder: Path, model: str, seed: int, bar: Progress) -> Abuse:
    task = bar.add_task("bad inputs", total=sum(counts.values()))
    with stage(folder, name="inputs", model=model, seed=seed) as made:
        inputs = list(bad_inputs(counts, seed=seed, mark=made.pictures.mark))  # making bombs takes a core for a while
        return abuse(made, inputs, tell=lambda done: bar.update(task, completed=done))


def _conclude(console: Console, kept: dict[str, object], abused: Abuse | None) -> None:
    for problem in [*abused.problems, *abused.harm] if abused else ():
        console.print(f"bad inputs: {problem}", highlight=False, markup=False)
    for name, (how, bound, _) in AIMS.items():
        value = kept[name]
        assert value is None or isinstance(value, int | float)
        word = {True: "met", False: "not met", None: "not measured"}[met(name, value)]
        console.print(f"{name:20} {'–' if value is None else f'{value:g}':>10}  aim {how} {bound:g}: {word}")


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: what it started and mounted is ended
    signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background a shell has it ignored
    app()

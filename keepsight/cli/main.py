"""The `keepsight` command: its subcommands, and how errors are shown to the user."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType
from typing import Annotated

import typer

from keepsight.cli.commands import (
    answers,
    bench,
    classes,
    corrections,
    gate,
    jobs,
    keys,
    measuring,
    service,
    teaching,
    test_sets,
    upkeep,
    versions,
)
from keepsight.cli.errors import EXPECTED, sentence_of

DEBUG_VARIABLE = "KEEPSIGHT_DEBUG"
FAILED = 1
BUG = 70
INTERRUPTED = 130

app = typer.Typer(
    name="keepsight",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(service.up)
app.command()(service.down)
app.command()(service.demo)
app.command(context_settings=bench.CONTEXT)(bench.bench)
app.command()(answers.classify)
app.command()(teaching.teach)
app.command()(corrections.correct)
app.add_typer(corrections.app, name="corrections")
app.add_typer(jobs.app, name="jobs")
app.add_typer(versions.app, name="versions")
app.add_typer(classes.app, name="classes")
app.command()(versions.merge)
app.command()(versions.rollback)
app.command()(versions.promote)
app.command()(versions.rollout)
app.command()(upkeep.prune)
app.command()(upkeep.pin)
app.command()(upkeep.unpin)
app.command()(upkeep.verify)
app.command()(upkeep.export)
app.command()(upkeep.backup)
app.command()(upkeep.restore)
app.add_typer(test_sets.app, name="test-sets")
app.command()(measuring.evaluate)
app.command()(measuring.report)
app.command()(measuring.compare)
app.add_typer(gate.app, name="gate")
app.add_typer(keys.app, name="keys")


def show_version(wanted: bool) -> None:
    """Print the version and stop, if `--version` was given."""
    if wanted:
        from importlib.metadata import version

        typer.echo(f"keepsight {version('keepsight')}")
        raise typer.Exit


@app.callback()
def keepsight(
    version: Annotated[
        bool, typer.Option("--version", callback=show_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    """An image-classification service that keeps learning: teach it new classes while it runs, and roll back.

    `keepsight up` starts it, `keepsight demo` shows it on real images. Commands that need a running service find it
    by --url or KEEPSIGHT_URL.
    """


def main() -> None:
    """Run the command line. Errors are one sentence on stderr and a non-zero exit code, never a traceback.

    With KEEPSIGHT_DEBUG=1 the traceback is shown.
    """
    open_what_is_closed()
    for number in (signal.SIGTERM, signal.SIGHUP):  # so that everything is cleaned up, as after Ctrl-C
        signal.signal(number, end)
    try:
        app(prog_name="keepsight")
    except EXPECTED as error:
        fail(sentence_of(error), FAILED, error)
    except KeyboardInterrupt as error:
        fail("interrupted", INTERRUPTED, error)
    except BrokenPipeError:  # the reader of our output, `head` for instance, has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        fail(
            f"this should not have happened: {type(error).__name__}: {error} ({DEBUG_VARIABLE}=1 shows where)",
            BUG,
            error,
        )


def open_what_is_closed() -> None:
    """Let standard streams that were closed lead nowhere, before other files take their numbers."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free: this one
            setattr(sys, name, open(number, mode, encoding="utf-8"))  # noqa: SIM115 - for as long as we run


def end(number: int, frame: FrameType | None) -> None:
    """Exit with the code that shells give to a signal."""
    sys.exit(128 + number)


def fail(sentence: str, exit_code: int, error: BaseException) -> None:
    """Print an error on stderr (with the end of a part's log if one died) and exit."""
    if os.environ.get(DEBUG_VARIABLE, "") not in ("", "0"):
        raise error
    sys.stderr.write(f"keepsight: {sentence}\n")
    sys.exit(exit_code)

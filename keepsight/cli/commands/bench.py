"""`keepsight bench`: the accuracy benchmarks, which are a program of their own."""

from __future__ import annotations

import os
import sys

import typer

CONTEXT = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


def bench(context: typer.Context) -> None:
    """Measure the method against its rivals on a data set, task by task: `keepsight bench run cifar100 --data DIR`.

    `keepsight bench --help` lists the commands. Results are a record, a table and plots; an interrupted run goes on at
    the last finished task.
    """
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", "benchmarks.accuracy", *context.args])  # noqa: S606 - our own module

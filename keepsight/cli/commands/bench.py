"""`keepsight bench`: the accuracy benchmarks, which are a program of their own."""

from __future__ import annotations

import importlib.util
import os
import sys

import typer

from keepsight.cli.errors import CommandError
from keepsight.local.supervisor import OUR_MODULE, our_environment

CONTEXT = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
EXTRA = ("matplotlib",)
"""What the extra `bench` installs, by the names that are imported."""


def bench(context: typer.Context) -> None:
    """Measure the method against its rivals on a data set, task by task: `keepsight bench run cifar100 --data DIR`.

    `keepsight bench --help` lists the commands. Results are a record, a table and plots; an interrupted run goes on at
    the last finished task.
    """
    missing = [name for name in EXTRA if importlib.util.find_spec(name) is None]
    if missing:
        raise CommandError(
            f"the benchmarks need {', '.join(missing)}; install the extra: pip install 'keepsight[bench]'"
        )
    sys.stdout.flush()
    command = [*OUR_MODULE, "benchmarks.accuracy", *context.args]
    os.execve(sys.executable, command, our_environment())  # noqa: S606 - our own module

"""Command-line options that several benchmarks share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

ONLY = typer.Option(help="Measure this part alone, and leave what is recorded of the others; may be repeated.")
"""Each benchmark has parts of its own, so the type is not given here."""

Out = Annotated[Path, typer.Option(help="Folder of the record, its page and its plots.")]
Quick = Annotated[bool, typer.Option("--quick", help="Small sizes, to see that it works; the record says so.")]
Threads = Annotated[int, typer.Option(min=1, help="CPU threads of PyTorch.")]
Rounds = Annotated[int, typer.Option(min=1, help="How often each way is timed.")]
Compile = Annotated[bool, typer.Option("--compile", help="Run the towers through torch.compile.")]
ChannelsLast = Annotated[bool, typer.Option(help="Images in channels-last layout.")]

"""`keepsight up`, `down` and `demo`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from keepsight.cli import console, options
from keepsight.cli.errors import CommandError
from keepsight.local.errors import LocalError

Host = Annotated[
    str, typer.Option(envvar="KEEPSIGHT_HOST", help="Address to bind; anything but loopback needs a key first.")
]
Port = Annotated[int, typer.Option(envvar="KEEPSIGHT_PORT", min=0, max=65535, help="Port to bind; 0 takes a free one.")]
Model = Annotated[
    str | None,
    typer.Option(envvar="KEEPSIGHT_MODEL", help="Base model: compact, ViT-B-16, hf-hub:ORG/NAME, local-dir:PATH."),
]
Pretrained = Annotated[
    str | None,
    typer.Option(envvar="KEEPSIGHT_PRETRAINED", help="Its weights: an open_clip tag or a checkpoint's path."),
]
Device = Annotated[str | None, typer.Option(envvar="KEEPSIGHT_DEVICE", help="cpu, cuda, cuda:1 or auto.")]


def up(
    host: Host = "127.0.0.1",
    port: Port = 8000,
    store: options.StorePath = options.DEFAULT_STORE,
    model: Model = None,
    pretrained: Pretrained = None,
    device: Device = None,
    threads: Annotated[
        int | None, typer.Option(envvar="KEEPSIGHT_THREADS", min=1, help="CPU threads of each server and worker.")
    ] = None,
    api_processes: Annotated[
        int,
        typer.Option(envvar="KEEPSIGHT_API_PROCESSES", min=1, help="Servers that share the port."),
    ] = 1,
    devices: Annotated[str | None, typer.Option(help="Devices of the servers, in turn: cuda:0,cuda:1.")] = None,
    metrics_port: Annotated[
        int | None,
        typer.Option(min=1, max=65535, help="Serve each server's metrics on its own port, from this one on."),
    ] = None,
    redis_url: Annotated[
        str | None,
        typer.Option(envvar="KEEPSIGHT_REDIS_URL", help="Use this broker instead of starting the embedded one."),
    ] = None,
    worker: Annotated[bool, typer.Option("--worker/--no-worker", help="Start a worker, which learns classes.")] = True,
    ready_timeout: Annotated[float, typer.Option(min=1, help="Seconds to wait until the service is ready.")] = 300.0,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Return when ready; stop it with `down`.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Copy the parts' logs to stderr.")] = False,
    as_json: options.Json = False,
) -> None:
    """Start broker, worker and server on this machine, and stop them together (Ctrl-C).

    A part that ends is started again while the others go on, and so is a server or a worker that hangs. If one ends
    before the service is ready, the command says which and why, stops the others and exits with a non-zero code.
    """
    from keepsight.local.up import UpSettings, run

    named = {
        "KEEPSIGHT_MODEL": model,
        "KEEPSIGHT_PRETRAINED": pretrained,
        "KEEPSIGHT_DEVICE": device,
        "KEEPSIGHT_THREADS": None if threads is None else str(threads),
    }
    settings = UpSettings(
        host=host,
        port=port,
        store=store,
        redis_url=redis_url,
        worker=worker,
        api_processes=api_processes,
        devices=tuple(filter(None, (device.strip() for device in (devices or "").split(",")))),
        metrics_port=metrics_port,
        ready_timeout_s=ready_timeout,
        verbose=verbose,
        environment={name: value for name, value in named.items() if value is not None},
    )
    if detach:
        from keepsight.local.detach import start_detached

        arguments = ["--host", host, "--port", str(port), "--store", str(store), f"--ready-timeout={ready_timeout}"]
        arguments += [] if worker else ["--no-worker"]
        arguments += [f"--api-processes={api_processes}"]
        arguments += [f"--devices={devices}"] if devices else []
        arguments += [f"--metrics-port={metrics_port}"] if metrics_port else []
        environment = {**os.environ, **settings.environment}
        if redis_url:
            environment["KEEPSIGHT_REDIS_URL"] = redis_url
        with console.err().status("Starting the service"):
            note = start_detached(arguments, log=settings.log_folder / "up.log", environment=environment)
        announce(note, as_json=as_json, stop_with=f"keepsight down --store {store}")
        return

    note_console = console.err()
    status = note_console.status("Starting broker, worker and server" if worker else "Starting broker and server")

    def ready(note: dict[str, Any]) -> None:
        status.stop()
        announce(note, as_json=as_json, stop_with="Ctrl-C")

    def stopping() -> None:
        status.stop()
        note_console.print("Stopping (once more to stop at once) ...")

    if not verbose:
        status.start()
    try:
        killed = run(
            settings,
            on_ready=ready,
            on_stopping=stopping,
            on_loss=lambda notice: note_console.print(notice, markup=False, soft_wrap=True),
            write=lambda line: note_console.print(line, markup=False, soft_wrap=True),
        )
    finally:
        status.stop()
    if killed:
        raise LocalError(f"stopped, but {' and '.join(killed)} did not end in time and had to be killed")
    note_console.print("Stopped.")


def announce(note: dict[str, Any], *, as_json: bool, stop_with: str) -> None:
    """Print the service's address."""
    if as_json:
        console.print_json(note)
        return
    out = console.out()
    out.print(f"Keepsight is ready at [bold]{note['url']}[/] (API documentation: {note['url']}/docs)")
    out.print(f"Store {note['store']}, logs in {os.path.dirname(next(iter(note['logs'].values())))}", markup=False)
    out.print(f"Stop it with {stop_with}.", markup=False)


def down(store: options.StorePath = options.DEFAULT_STORE, as_json: options.Json = False) -> None:
    """Stop the service that `up` started on a store."""
    from keepsight.local.instance import Instance

    with console.err().status("Stopping the service"):
        stopped = Instance(store).stop()
    if as_json:
        console.print_json({"stopped": stopped, "store": str(store)})
    elif stopped:
        console.out().print("Stopped.")
    if not stopped:
        raise CommandError(f"no service runs on the store {store}")


def demo(
    data: Annotated[
        Path | None, typer.Option(help="Your own images, a folder per class [default: scans of handwritten digits]")
    ] = None,
    tasks: Annotated[int, typer.Option(min=2, help="How many tasks --data's classes are split into.")] = 2,
    template: Annotated[str | None, typer.Option(help="Prompt of the classes.")] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", "-s", metavar="KEY=VALUE", help="Override a hyper-parameter of the updates: epochs=5."),
    ] = None,
    short: Annotated[bool, typer.Option("--short", help="A smaller slice of the images.")] = False,
    stop_at_end: Annotated[
        bool, typer.Option("--exit", help="Stop the service at the end; exit code 1 if a check failed.")
    ] = False,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port [default: 8000, or a free one]")] = 8000,
    folder: Annotated[Path, typer.Option(help="The demo's folder, which is created anew.")] = Path("var/demo"),
    as_json: options.Json = False,
) -> None:
    """Start a fresh service, teach it real images, measure every version, and check that a rollback is exact."""
    from keepsight.cli.commands.teaching import parse_overrides
    from keepsight.demo.service import DemoSettings
    from keepsight.demo.tour import run_demo

    settings = DemoSettings(
        data=data,
        tasks=tasks,
        template=template,
        overrides=parse_overrides(overrides or []),
        short=short,
        stop_at_end=stop_at_end,
        port=port,
        folder=folder,
    )
    report = run_demo(settings, quiet=as_json)
    if as_json:
        console.print_json(report)
    failed = [check["name"] for check in report["checks"] if not check["held"]]
    if failed:
        raise CommandError(f"checks of the tour failed: {'; '.join(failed)}")

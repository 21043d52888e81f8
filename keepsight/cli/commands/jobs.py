"""`keepsight jobs`: list, show, cancel."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from keepsight.cli import console, options
from keepsight.cli.errors import CommandError
from keepsight.client.api import TERMINAL_STATES

app = typer.Typer(help="List the stored jobs; show or cancel one.", rich_markup_mode=None)

JobId = Annotated[str, typer.Argument(metavar="ID", help="The job's id.")]
Watch = Annotated[bool, typer.Option("--watch", "-w", help="Keep watching until all have ended.")]


@app.callback(invoke_without_command=True)
def list_jobs(
    context: typer.Context,
    watch: Watch = False,
    url: options.Url = options.URL,
    api_key: options.ApiKey = None,
    as_json: options.Json = False,
) -> None:
    """List the stored jobs; show or cancel one."""
    if context.invoked_subcommand is not None:
        return
    from keepsight.cli.views import jobs_table

    with options.connect(url, api_key) as client:
        jobs = client.jobs()
        if watch and not as_json:
            from rich.live import Live

            with Live(jobs_table(jobs), console=console.err(), auto_refresh=False, transient=True) as live:
                while any(job["state"] not in TERMINAL_STATES for job in jobs):
                    time.sleep(1)
                    jobs = client.jobs()
                    live.update(jobs_table(jobs), refresh=True)
        while watch and as_json and any(job["state"] not in TERMINAL_STATES for job in jobs):
            time.sleep(1)
            jobs = client.jobs()
    if as_json:
        console.print_json({"jobs": jobs})
    elif jobs:
        console.print_table(jobs_table(jobs))
    else:
        console.out().print("No jobs yet. Teach something: keepsight teach DIR")


@app.command("show")
def show(
    job_id: JobId,
    watch: Watch = False,
    url: options.Url = options.URL,
    api_key: options.ApiKey = None,
    as_json: options.Json = False,
) -> None:
    """Show one job; with --watch, follow it to its end. Exit code 1 if it failed or was cancelled while watched."""
    from keepsight.cli.commands.teaching import follow
    from keepsight.cli.views import job_lines, outcome_sentence

    with options.connect(url, api_key) as client:
        job = client.job(job_id)
        if watch and job["state"] not in TERMINAL_STATES:
            job = follow(client, job_id, label=job["name"])
    if as_json:
        console.print_json(job)
    else:
        for line in job_lines(job):
            console.out().print(line)
    if watch and job["state"] != "succeeded":
        raise CommandError(f"job {job_id} ended without a new version ({outcome_sentence(job).rstrip('.')})")


@app.command("cancel")
def cancel(
    job_id: JobId, url: options.Url = options.URL, api_key: options.ApiKey = None, as_json: options.Json = False
) -> None:
    """Ask a job to stop. It stops within one step and leaves nothing behind."""
    with options.connect(url, api_key) as client:
        job = client.cancel(job_id)
    if as_json:
        console.print_json(job)
    else:
        console.out().print(f"Asked job {job_id} to stop (now {job['state']}).")

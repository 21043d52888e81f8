"""`python -m app`: runs the server. All settings come from KEEPSIGHT_* variables."""

from __future__ import annotations

import argparse
import contextlib
import logging
import logging.config
import os
import signal
import sys
from typing import NoReturn

from pydantic import ValidationError

from app.listening import inherited_sockets, shared_socket
from app.settings import Settings
from exchange.heartbeat import Heartbeat
from exchange.settings import why_refused
from keepsight.keys import KeyFile, KeyFileError
from segp_cl.runtime.process import importing, set_aside_what_lives_on, set_up_server

REFUSED = 2
_OURS = ("app", "model_store", "segp_cl", "keepsight", "uvicorn")


def main() -> int:
    """Start the server and stay until it is stopped.

    Returns:
        0 after a normal stop; 2 if the settings are refused, with one sentence on stderr; 1 if it could not start.
    """
    parser = argparse.ArgumentParser(prog="python -m app", description="Run the Keepsight server.", epilog=_epilog())
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.parse_args()
    try:
        settings = Settings()
    except ValidationError as error:
        return _refuse(why_refused(error))
    reason = why_not_bind(settings)
    if reason is not None:
        return _refuse(reason)
    os.umask(int(settings.umask, 8))
    return _serve(settings)


def why_not_bind(settings: Settings) -> str | None:
    """Return why the server must not bind to `settings.host`, or None if it may."""
    if settings.is_loopback:
        return None
    try:
        keys = KeyFile(settings.keys_file).list()
    except KeyFileError as error:
        return str(error)
    if any(key.revoked_at is None for key in keys):
        return None
    return (
        f"refusing to bind to {settings.host}: there is no API key in {settings.keys_file}, so anyone could use the "
        "server; create one with `keepsight keys`, or set KEEPSIGHT_HOST=127.0.0.1"
    )


def log_config(level: str) -> dict[str, object]:
    """Return the logging configuration of this process: one line per record on stderr."""
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"line": {"format": "%(asctime)s %(levelname)-7s %(name)s %(message)s"}},
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
        "root": {"level": "WARNING", "handlers": ["stderr"]},
        # it warns of every malformed form, which is answered and counted as any other request
        "loggers": {**{name: {"level": level} for name in _OURS}, "python_multipart": {"level": "ERROR"}},
    }


def _serve(settings: Settings) -> int:
    set_up_server()
    # imported late: PyTorch takes seconds to import, and the refusals above should appear at once
    with importing():
        from prometheus_client import start_http_server

        from app.main import create_app
        from app.metrics import Metrics
        from app.wire.server import Server
        from segp_cl.errors import KeepsightError

        metrics = Metrics()
        app = create_app(settings, metrics=metrics)

    def refusal() -> str | None:
        error = app.state.startup_error
        return str(error) if isinstance(error, KeepsightError | KeyFileError) else None

    logging.config.dictConfig(log_config(settings.log_level))
    # a refusal is printed as one sentence at the end, not as a traceback
    logging.getLogger("uvicorn.error").addFilter(
        lambda record: refusal() is None or not record.getMessage().startswith("Traceback")
    )
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)  # uvicorn stops cleanly, then raises the signal again
    server = Server(app, settings, count=metrics.count_ended, started=set_aside_what_lives_on)
    metrics.connections.set_function(lambda: len(server.crowd))
    # from its event loop: if that hangs, there is no beat
    server.config.callback_notify, server.config.timeout_notify = Heartbeat().beat_soon, 1
    sockets = inherited_sockets()
    try:
        if settings.metrics_port is not None:
            start_http_server(settings.metrics_port, settings.host, registry=metrics.registry)
        if settings.share_port and not sockets:
            sockets = [shared_socket(settings.host, settings.port)]
    except OSError as error:
        return _refuse(f"cannot listen on {settings.host} with these settings: {error.strerror or error}")
    with contextlib.suppress(SystemExit):  # the server could not start, and has logged why
        server.run(sockets=sockets or None)
    reason = refusal()
    if reason is not None:
        return _refuse(reason)
    return 0 if server.started else 1


def _refuse(reason: str) -> int:
    print(f"keepsight: {reason}", file=sys.stderr)
    return REFUSED


def _epilog() -> str:
    lines = ["settings (environment):"]
    for name, field in Settings.model_fields.items():
        lines.append(f"  KEEPSIGHT_{name.upper():24} {field.description}")
    return "\n".join(lines)


def _leave(code: int) -> NoReturn:
    """End the process. All is closed by now, and the interpreter's own end takes 20 s of CPU with PyTorch loaded."""
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # whoever read it may be gone
            stream.flush()
    os._exit(code)


if __name__ == "__main__":
    _leave(main())

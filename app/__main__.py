"""`python -m app`: runs the server. All settings come from KEEPSIGHT_* variables."""

from __future__ import annotations

import argparse
import logging
import logging.config
import sys

import uvicorn
from fastapi import FastAPI
from pydantic import ValidationError

from app.main import create_app
from app.settings import Settings
from keepsight.keys import KeyFile, KeyFileError
from segp_cl.errors import KeepsightError

REFUSED = 2


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
        first = error.errors(include_url=False)[0]
        name = "KEEPSIGHT_" + "_".join(str(part) for part in first["loc"]).upper()
        return _refuse(f"{name}: {first['msg']}")
    reason = why_not_bind(settings)
    if reason is not None:
        return _refuse(reason)
    app = create_app(settings)
    logging.config.dictConfig(log_config(settings.log_level))
    logging.getLogger("uvicorn.error").addFilter(lambda record: not _is_traceback_of_refusal(record, app))
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            host=settings.host,
            port=settings.port,
            log_config=None,
            access_log=False,  # app.access says more
            timeout_graceful_shutdown=10,
            server_header=False,
        )
    )
    server.run()
    if isinstance(app.state.startup_error, KeepsightError | KeyFileError):
        return _refuse(str(app.state.startup_error))
    return 0 if server.started else 1


def why_not_bind(settings: Settings) -> str | None:
    """Why the server must not bind to `settings.host`; None if it may."""
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
    """Logging of this process: one line per record on stderr."""
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"line": {"format": "%(asctime)s %(levelname)-7s %(name)s %(message)s"}},
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
        "root": {"level": level, "handlers": ["stderr"]},
        "loggers": {"httpx": {"level": "WARNING"}, "python_multipart": {"level": "WARNING"}},
    }


def _is_traceback_of_refusal(record: logging.LogRecord, app: FastAPI) -> bool:
    refused = isinstance(app.state.startup_error, KeepsightError | KeyFileError)
    return refused and record.getMessage().startswith("Traceback")


def _refuse(reason: str) -> int:
    print(f"keepsight: {reason}", file=sys.stderr)
    return REFUSED


def _epilog() -> str:
    lines = ["settings (environment):"]
    for name, field in Settings.model_fields.items():
        lines.append(f"  KEEPSIGHT_{name.upper():24} {field.description}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())

"""Errors of commands, and the advice that the command line adds to them."""

from __future__ import annotations

from keepsight.client.errors import ApiError, ClientError, ServiceUnreachableError
from keepsight.demo.errors import DemoError
from keepsight.local.errors import LocalError

KEY_MISSING = (401, 403)


class CommandError(Exception):
    """A command cannot do what was asked. The message is one sentence for the user."""


EXPECTED = (CommandError, ClientError, LocalError, DemoError)
"""Errors that are shown as a sentence; any other is a bug."""


def sentence_of(error: BaseException) -> str:
    """Return an expected error's message, with advice in terms of the command line."""
    sentence = str(error)
    if isinstance(error, ApiError) and error.status in KEY_MISSING:
        sentence += "; give a key with --api-key or KEEPSIGHT_API_KEY"
    if isinstance(error, ApiError):  # the message names the API's field
        sentence = sentence.replace("send extend=true", "give --extend").replace("send encoding=", "give --encoding")
    if isinstance(error, ServiceUnreachableError) and not error.connected:
        sentence += "; start the service with `keepsight up`, or name another address with --url or KEEPSIGHT_URL"
    return sentence

"""Converts class names to prompts for the text tower."""

from __future__ import annotations

from segp_cl.errors import InvalidTaskError

DEFAULT_TEMPLATE = "a photo of a {}."


def as_prompt(template: str, name: str) -> str:
    """Return the prompt of a class: `template` with `{}` replaced by its name, whose `_` become spaces.

    Raises:
        InvalidTaskError: the template is empty or has no `{}`.
    """
    if not template.strip() or "{}" not in template:
        raise InvalidTaskError(f"a prompt template needs {{}} in place of the class name, got {template!r}")
    return template.replace("{}", name.replace("_", " "))

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


def prompt_for(name: str, *, was: str, prompt: str) -> str:
    """Return the prompt of a class under another name: its prompt, with the new name wherever the old one was in it."""
    return prompt.replace(was.replace("_", " "), name.replace("_", " "))

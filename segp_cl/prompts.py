"""Class names as the sentences that the text tower reads."""

from __future__ import annotations

from segp_cl.errors import InvalidTaskError

DEFAULT_TEMPLATE = "a photo of a {}."


def as_prompt(template: str, name: str) -> str:
    """The sentence shown to the text tower: `template` with `{}` replaced by the class's name, `_` as a space.

    Raises:
        InvalidTaskError: the template is empty or has no `{}`.
    """
    if not template.strip() or "{}" not in template:
        raise InvalidTaskError(f"a prompt template needs a {{}} where the class name goes, got {template!r}")
    return template.replace("{}", name.replace("_", " "))

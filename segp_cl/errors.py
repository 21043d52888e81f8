"""The root of Keepsight's error family, and the errors of the method itself."""


class KeepsightError(Exception):
    """Anything Keepsight refuses to do. The message says what was got and what was expected."""


class ModelLoadError(KeepsightError):
    """A base model could not be assembled: unknown name, missing or altered weights."""


class UnsupportedArchitectureError(KeepsightError):
    """The model has no layer that the requested adaptation knows how to reach."""


class InvalidTaskError(KeepsightError):
    """A task that cannot be learned: no classes, no images, a class without images, a bad prompt."""


class ClassExistsError(InvalidTaskError):
    """A class of the task is already known and more data of it was not asked for."""


class ImageDecodeError(KeepsightError):
    """Bytes that are not an image Keepsight accepts. The message says why."""


class IncompatibleStateError(KeepsightError):
    """A learned state does not belong to the base model it is being used with."""

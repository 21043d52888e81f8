"""The base class of Keepsight's errors, and the errors of the method itself."""


class KeepsightError(Exception):
    """Base class of Keepsight's errors. The message says what was got and what was expected."""


class ModelLoadError(KeepsightError):
    """A base model could not be assembled: unknown name, missing or altered weights."""


class UnsupportedArchitectureError(KeepsightError):
    """The model has no layer that can be adapted, or a tower of an unknown kind."""


class InvalidTaskError(KeepsightError):
    """A task that cannot be learned: no classes, no images, a class without images, a bad prompt."""


class ClassExistsError(InvalidTaskError):
    """A class of the task is already known, and the task does not extend known classes."""


class ClassNotFoundError(KeepsightError):
    """No class has this name."""


class ImageDecodeError(KeepsightError):
    """Bytes that Keepsight does not accept as an image. The message says why."""


class IncompatibleStateError(KeepsightError):
    """A learned state does not belong to the base model it is being used with."""

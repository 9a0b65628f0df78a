"""What a user can cause, in one tree.

    LemevitError            one line on stderr, exit 1
    ├── SceneError          a raster that cannot be opened, read or understood
    ├── WeightsError        weights that are missing, foreign, or do not fit the scene or task
    ├── DataError           training data: layout, masks, classes
    ├── OutputError         a target that exists, a folder that is missing, a full disk
    └── DeviceError         a device or precision that this machine does not have

Every message says what is wrong, where, and what to do. A caller's mistake in Python is a
``ValueError``; anything else is a bug and keeps its traceback.
"""


class LemevitError(Exception):
    """A mistake that the user can mend; its text is the whole message."""


class SceneError(LemevitError):
    """A raster that cannot be opened, read or understood."""


class WeightsError(LemevitError):
    """Weights that are missing, not ours, or do not fit the scene or the task."""


class DataError(LemevitError):
    """Training data whose layout, masks or classes are wrong."""


class OutputError(LemevitError):
    """A target that cannot be written."""


class DeviceError(LemevitError):
    """A device or a precision that this machine does not offer."""

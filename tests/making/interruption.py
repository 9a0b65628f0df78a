"""Trainings that are ended on the way."""


class Interrupting:
    """Ends a training while it reports a step that comes after a checkpoint."""

    def __init__(self, after):
        self.left = after
        self.notes = []

    def advance(self, count=1, **figures):
        self.left -= count
        if self.left < 0:
            raise KeyboardInterrupt

    def start(self, label, *, total, unit): ...

    def finish(self): ...

    def warn(self, message): ...

    def note(self, message):
        self.notes.append(message)

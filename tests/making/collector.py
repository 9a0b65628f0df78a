"""What a run tells, kept."""

from lemevit_cli.progress import Silent


class Collector(Silent):
    """Keeps notes and warnings."""

    def __init__(self):
        self.notes, self.warnings = [], []

    def note(self, message):
        self.notes.append(message)

    def warn(self, message):
        self.warnings.append(message)

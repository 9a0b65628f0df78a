"""``python -m lemevit_cli`` and the console script ``lemevit``."""

from __future__ import annotations

from lemevit_cli.cli import main

if __name__ == "__main__":
    main()

"""The network of change: what has become of every pixel from one date to the next."""

from __future__ import annotations

from lemevit_cli.inference.network import CardNetwork

NETWORK = CardNetwork("change", build="lemevit_cli.models.change:build_change_detector", dates=2)

"""The network of change: what has become of every pixel from one date to the next."""

from __future__ import annotations

from lemevit_cli.inference.network import CardNetwork
from lemevit_cli.models.change import build_change_detector

NETWORK = CardNetwork("change", build_change_detector)

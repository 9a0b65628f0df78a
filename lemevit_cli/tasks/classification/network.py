"""The network of classification: a class for every window."""

from __future__ import annotations

from lemevit_cli.inference.network import CardNetwork

NETWORK = CardNetwork(
    "cls",
    build="lemevit_cli.models.classifier:build_classifier",
    scores="lemevit_cli.models.scores:WindowScores",
)

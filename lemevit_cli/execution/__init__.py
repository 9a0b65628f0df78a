"""Where and how a model runs."""

"""One file a layout of training data."""

"""Deep learning on large georeferenced scenes, from the command line."""

__version__ = "0.1.0"

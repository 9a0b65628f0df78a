"""Starter checkpoints, ``*.safetensors``; found by name through ``models/weights.py``."""

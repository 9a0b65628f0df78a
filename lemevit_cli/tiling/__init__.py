"""Cutting a grid into windows and putting their scores together again."""

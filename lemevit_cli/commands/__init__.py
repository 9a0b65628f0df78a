"""The only users of Typer and Rich: parse, call one function, report.

Nothing heavy is imported on top of these files: every command's help is read from them.
"""

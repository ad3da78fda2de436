"""The `aspo-data` command line: one file per command, each registered here by name only.

A command's module is imported when it is asked for, so `aspo-data --help` stays as fast as a bare Typer app.
"""

"""The command line: words in, words out. Knows arguments, tables and JSON; what a verb does is admin's business."""

from proxy.cli.run import main

__all__ = ["main"]

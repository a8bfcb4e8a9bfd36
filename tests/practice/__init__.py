"""A practice upstream of PyPI parts, in one process: for a demo where Debian's servers can't be installed."""

from tests.practice.practice import Practice

__all__ = ["Practice"]

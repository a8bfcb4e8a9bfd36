"""Measurements: ratios and figures of one run, written with their conditions. Never run by the tests."""

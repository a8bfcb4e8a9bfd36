"""Fuzzing of everything that reads what a stranger sent: one module per target, each with `one(data)`.

`one` raises when an invariant is broken. test_fuzz.py runs the corpus and some hundred random inputs through each;
`make fuzz` does so for as long as it is told, guided by coverage where atheris is to be had.
"""

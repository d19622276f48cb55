"""Baselines, tolerances and verdicts: pure values and functions, but for reading and writing the files."""

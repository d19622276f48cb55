"""Baselines, tolerances and verdicts. Pure."""

"""Token-cost regressions, treated like performance regressions: a pytest plugin for agents."""

__version__ = "0.1.0"

"""The plugin inside a pytest run: scenarios, sessions, and what pytest is told."""

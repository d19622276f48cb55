"""The `tokenbudget` command: translation only."""

"""Run the `tokenbudget` commands: read, call the packages below, write, return an exit status."""

"""What each `tokenbudget` command does: read, call the floors below, write, return an exit status."""

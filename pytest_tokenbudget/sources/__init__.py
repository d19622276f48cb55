"""Find which line of which file holds a text."""

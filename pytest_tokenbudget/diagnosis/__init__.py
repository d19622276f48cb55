"""Find what grew, where the cache broke, and which line did it. Pure."""

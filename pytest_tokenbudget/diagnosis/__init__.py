"""What grew, where the cache broke, which line did it, what would be cheaper. Pure."""

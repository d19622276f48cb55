"""What would be cheaper: levers of one run and of a suite, computed offline. Pure."""

"""What git knows: files, commits, and the baselines in them."""

"""Help tests: projects and servers to run them against, and values to run them on."""

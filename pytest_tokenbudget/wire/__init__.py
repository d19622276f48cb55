"""What goes over the wire, as values: endpoints, prompts, answers. Does no I/O and knows no HTTP library."""

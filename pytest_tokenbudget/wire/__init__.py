"""What goes over the wire, as values: endpoints, prompts, answers. Pure; knows no HTTP library."""

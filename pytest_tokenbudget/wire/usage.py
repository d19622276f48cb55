"""An answer as a message and its usage: JSON, SSE, AWS event stream, batch results."""

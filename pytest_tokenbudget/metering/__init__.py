"""Reading becomes numbers: counting, the prompt cache, prices. Pure."""

"""Which recorded turn answers a request; cassettes, their storage, and the guard around the network."""

"""All network I/O: the acceptor, the two fronts, dialling upstream, the relay."""

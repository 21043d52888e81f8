"""The server's side of its connections: what a client may send, how slowly, and how many may be open at once."""

"""Versions on disk, and what server and worker agree on: contracts, the broker, the spool."""

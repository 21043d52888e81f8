"""From an uploaded archive to validated images in the spool, under limits, without unpacking a single path."""

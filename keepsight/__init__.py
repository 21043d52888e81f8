"""What a user types and imports: the command line, the client, the demo. It speaks HTTP and starts processes."""

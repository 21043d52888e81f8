"""The service on one machine: `keepsight up` and what it starts."""

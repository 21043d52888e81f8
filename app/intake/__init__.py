"""Validates an uploaded archive within limits and spools its images. Never uses a path of it as a path."""

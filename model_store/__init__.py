"""Versions on disk. Begin with `store.Store`."""

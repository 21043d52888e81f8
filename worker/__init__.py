"""The update worker. Begin with `pipeline.run_update`."""

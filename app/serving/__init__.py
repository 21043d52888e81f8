"""From bytes to scores: decoding, the engine, the live model and the watcher that keeps it on CURRENT."""

"""Everything between bytes and scores: decoding, the engine, the live model and the watcher that follows CURRENT."""

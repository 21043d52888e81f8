"""A learned state made fast to ask: passes, packed weights, golden answers, the process they run in."""

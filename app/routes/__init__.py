"""One file per resource. Routes parse, call one thing, and shape the answer."""

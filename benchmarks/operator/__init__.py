"""What those who run the service do with versions, and what it is worth: edits, corrections, exports."""

"""What the fast way of decoding changes in features and answers, and what it saves."""

"""What the service bears: one fault after another, thousands of bad inputs, and a client that must be answered."""

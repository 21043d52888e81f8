"""What answers are worth: probabilities, sets of labels, unknown images, and few or uneven images of a class."""

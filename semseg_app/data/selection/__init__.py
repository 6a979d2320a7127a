"""Which images to label next, and which masks look wrong: the parts that need no network."""

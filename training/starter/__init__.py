"""A first recipe for a folder of photos and masks: what lies there, what this machine has, and a time."""

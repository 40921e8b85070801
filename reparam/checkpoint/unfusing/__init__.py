"""From a deploy checkpoint back to a train-time form of the same function."""

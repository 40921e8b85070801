"""What the doctor tries, each in a process of its own; nothing imports this package."""

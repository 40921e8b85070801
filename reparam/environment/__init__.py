"""What this machine and this Python have, whether it works, and what is known to go wrong."""

"""Every file that parameters live in: reading, writing, and carrying them over from one model to another."""

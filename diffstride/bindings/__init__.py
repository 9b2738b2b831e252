"""What gin files bind, what of that a run uses, and messages about it."""

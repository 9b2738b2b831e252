"""What a model costs, and what it lets pass."""

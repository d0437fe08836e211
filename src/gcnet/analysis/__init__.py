"""What blocks cost, and what a difference between runs is worth."""

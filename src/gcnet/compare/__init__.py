"""The same network with different blocks, trained side by side over seeds, and what came of it."""

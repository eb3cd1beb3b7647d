"""How fast capture runs, side by side with a bare forward, naive use of transformers, and Ray."""

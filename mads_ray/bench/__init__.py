"""How fast capture runs, beside a bare forward pass, naive use of transformers, vLLM and Ray."""

"""From conversations to activation states: torch and transformers, never Ray."""

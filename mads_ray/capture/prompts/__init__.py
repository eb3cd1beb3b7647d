"""Turn a conversation into token ids by the model's own chat template."""

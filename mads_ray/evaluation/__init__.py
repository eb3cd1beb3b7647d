"""How diverse a set of examples is, measured without training: no Ray, no torch."""

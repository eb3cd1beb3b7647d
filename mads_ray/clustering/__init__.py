"""Build the cluster tree from sketches. The objective counts its nodes as features."""

"""Does a core set make a better model? Fine-tune on it and on others, and compare.

Torch, transformers, numpy and pyarrow are enough: this runs on a bare GPU machine, and on a CPU.
"""

"""Test whether a core set makes a better model: fine-tune on it and on other sets, and compare.

This needs torch, transformers, numpy and pyarrow only. It runs on a bare GPU machine and on a CPU.
"""

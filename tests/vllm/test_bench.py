"""`bench throughput --vllm`."""

import json

import pytest

from mads_ray.throughput.__main__ import main


def test_vllm_is_a_row_of_the_same_run(capsys, small_corpus):
    flags = ["--input", str(small_corpus), "--rows", "12", "--repeats", "1", "--no-naive", "--vllm"]
    assert main(flags) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    # Of one turn: the loop beside vLLM is another one than that of the other figures.
    assert told["vllm_ratio"] > 0
    assert told["vllm_rows_per_s"] > 0
    assert told["vllm"].startswith("vllm")
    assert told["rows_per_s"] == pytest.approx(12 / told["loop_s"], rel=1e-2)

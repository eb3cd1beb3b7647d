"""`bench throughput --vllm`."""

import json

from mads_ray.bench.__main__ import main


def test_vllm_is_a_row_of_the_same_run(capsys, small_corpus):
    flags = ["--input", str(small_corpus), "--rows", "12", "--repeats", "1", "--no-naive", "--vllm"]
    assert main(flags) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert 0.02 < told["vllm_ratio"] < 50  # of real work on both sides
    assert told["vllm_rows_per_s"] < 1000
    assert told["vllm"].startswith("vllm")
    assert told["naive_hf_ratio"] is None

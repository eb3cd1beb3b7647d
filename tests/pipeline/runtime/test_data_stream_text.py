"""A row whose text hangs every worker that gets it, in Ray Data's actors."""

import time
from pathlib import Path

from mads_ray.capture.history import discard
from mads_ray.capture.journal import Journal
from mads_ray.pipeline.runtime.data_stream import stream
from mads_ray.pipeline.runtime.owner import ended_by_itself, this_process
from mads_ray.pipeline.runtime.session import PoolShape
from mads_ray.pipeline.runtime.watch import Traces

ROWS = 40


def _tokeniser(folder, deadly):
    """Work that tokenises a shard, as capture and calibration do before their first batch."""
    import numpy as np

    import mads_ray.capture.shard as shard_module
    from mads_ray.capture.engines.engine import RunStats
    from mads_ray.capture.prompts.examples import TokenisedExample
    from mads_ray.corpus.conversation import Conversation, Message

    shard_module._GROUP_ROWS = 8

    def renderer(conversation):
        if conversation.messages[0].content == f"row {deadly}":
            time.sleep(600)
        ids_T = np.arange(3, dtype=np.int32)
        return TokenisedExample(ids_T, ids_T >= 0, 0)

    def work(item):
        texts = {i: Conversation((Message("user", f"row {i}"),)).to_json() for i in range(ROWS)}
        stats = RunStats()
        owner = this_process()
        with Journal(Path(folder), item["key"], owner, ended_by_itself) as journal:
            examples = shard_module.tokenise(renderer, texts, stats, journal)
        discard(Path(folder), item["key"])
        failures = {str(i): [e.reason, e.message] for i, e in stats.failures.items()}
        return {"rows": len(examples), "failures": failures}

    return work


def test_it_ends_in_quarantine_and_the_others_are_done(ray_local, tmp_path):
    args, traces = (str(tmp_path), 13), Traces(folder=tmp_path, hang_s=3.0)
    items = [{"key": "part-0"}]
    (result,) = stream("test", items, _tokeniser, args, PoolShape(1, 1), traces)
    assert result["rows"] == ROWS - 1
    ((row, (reason, message)),) = result["failures"].items()
    assert (row, reason) == ("13", "ends_the_process")
    assert "ended or hung while they rendered and tokenised this row" in message

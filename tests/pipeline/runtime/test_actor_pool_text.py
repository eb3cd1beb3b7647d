"""A row whose text hangs every worker that gets it, in the real pool."""

import time
from pathlib import Path

from mads_ray.capture.journal import Journal, discard, heartbeats, read_history, record_death
from mads_ray.pipeline.runtime import actor_pool
from mads_ray.pipeline.runtime.actor_pool import ActorPool, WorkStatus

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
        with Journal(Path(folder), item["key"], "worker") as journal:
            examples = shard_module.tokenise(renderer, texts, stats, journal)
        discard(Path(folder), item["key"])
        failures = {str(i): [e.reason, e.message] for i, e in stats.failures.items()}
        return {"rows": len(examples), "failures": failures}

    return work


def test_it_ends_in_quarantine_and_the_others_are_done(ray_local, tmp_path, monkeypatch):
    monkeypatch.setattr(actor_pool, "_LOOK_S", 0.5)
    watch = WorkStatus(
        lambda item: item["key"],
        lambda: heartbeats(tmp_path),
        lambda item: read_history(tmp_path, item["key"]).settled,
        lambda item: None,
        lambda item: record_death(tmp_path, item["key"]),
        hang_s=3.0,
    )
    args = (str(tmp_path), 13)
    pool = ActorPool("test", [{"key": "part-0"}], _tokeniser, args, lambda _: (1, 1, 0.0), watch)
    (result,) = pool.run()
    assert result["rows"] == ROWS - 1
    ((row, (reason, message)),) = result["failures"].items()
    assert (row, reason) == ("13", "ends_the_process")
    assert "ended or hung while they rendered and tokenised this row" in message

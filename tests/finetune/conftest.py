"""One real model for the whole folder, and its first two layers for what needs many runs."""

import copy
import json

import pytest
import torch

from mads_ray.capture.model import load_tokenizer
from mads_ray.capture.prompts.examples import PromptRenderer
from mads_ray.finetune import causal, data

ROWS = [
    {"instruction": "Name a colour.", "output": "Blue is a colour.", "task": "word"},
    {"instruction": "Count to four.", "output": "One, two, three, four.", "task": "sum"},
    {"instruction": "Add 2 and 3.", "output": "The answer is 5.", "task": "sum"},
    {"instruction": "Say hello.", "input": "In French.", "output": "Bonjour!", "task": "word"},
    {"instruction": "Capital of Italy?", "output": "It is Rome, on the Tiber.", "task": "fact"},
    {"instruction": "Add 4 and 4.", "output": "8", "task": "sum"},
    {"instruction": "What do bees make?", "output": "Honey and wax.", "task": "fact"},
    {"instruction": "Name an animal.", "output": "A badger.", "task": "word"},
]


@pytest.fixture(autouse=True)
def one_thread():
    """Two threads on busy cores wait for each other: several times slower than one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def rows():
    """Eight short rows of three tasks."""
    return [dict(r) for r in ROWS]


@pytest.fixture(scope="session")
def located():
    return causal.find("smollm2-135m")


@pytest.fixture(scope="session")
def tokenizer(located):
    return load_tokenizer(located)


@pytest.fixture(scope="session")
def model(located):
    """The real one, in float32; not to be changed."""
    return causal.load(located)


@pytest.fixture(scope="session")
def shallow(model, tokenizer, tmp_path_factory):
    """Folder of a model with the real embeddings and first two layers, a fast one."""
    folder = tmp_path_factory.mktemp("models") / "shallow"
    config = copy.deepcopy(model.config)
    config.num_hidden_layers = 2
    config.layer_types = None
    with torch.device("meta"):
        short = type(model)(config)
    weights = {k: v for k, v in model.state_dict().items() if k in short.state_dict()}
    short.load_state_dict(weights, assign=True)
    short.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def write_rows(tmp_path):
    """Writes rows as JSON lines and returns the file's name."""

    def write(name, rows):
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
        return str(file)

    return write


@pytest.fixture
def examples(write_rows, tokenizer):
    rows, _ = data.read([write_rows("rows.jsonl", ROWS)])
    return data.tokenise(rows, PromptRenderer(tokenizer, 128, "response"))[0]

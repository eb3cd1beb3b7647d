"""Names of the fields that hold training content, and functions that look up and read a value.

A field with one of these names is content: it is read, or the row goes to quarantine with its name.
"""

from __future__ import annotations

import ast
import functools
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mads_ray.errors import RowError

# Lists of turns.
CONVERSATIONS = (
    "messages",
    "conversations",
    "conversation",
    "chat",
    "dialogue",
    "dialog",
    "contents",
    "turns",
    "data",
)
PROMPTS = ("instruction", "prompt", "question", "query", "problem", "inputs", "input")
# The first that is not empty is the answer.
ANSWERS = (
    "output",
    "response",
    "completion",
    "chosen",
    "chosen_response",
    "preferred_output",
    "solution",
    "answer",
    "answers",
    "generation",
    "generated_solution",
    "canonical_solution",
    "targets",
    "target",
)
PASSAGES = (  # what a prompt is about
    "input",
    "context",
    "passage",
    "document",
    "documents",
    "article",
    "choices",
    "options",
    "definition",
)
SYSTEMS = (
    "system",
    "system_prompt",
    "system_message",
    "system_instruction",
    "systemInstruction",
    "meta_instruction",
)
HISTORIES = ("history",)
TOOLS = ("tools", "functions")
CALLS = ("tool_calls", "function_call", "function_calls")
REASONINGS = (
    "reasoning_content",
    "thinking",
    "reasoning",
    "thinking_trajectories",
    "complex_cot",
    "cot",
)
MEDIA = (
    "image",
    "images",
    "image_path",
    "image_url",
    "audio",
    "audios",
    "audio_path",
    "video",
    "videos",
    "video_path",
)
REJECTED = (  # never read
    "rejected",
    "rejected_response",
    "rejected_messages",
    "non_preferred_output",
)
DESIRABLE = ("label", "kto_tag")  # false: an answer to learn to avoid

KNOWN = frozenset(
    (
        *(*CONVERSATIONS, *PROMPTS, *ANSWERS, *PASSAGES, *SYSTEMS, *HISTORIES, *TOOLS),
        *(*CALLS, *REASONINGS, *MEDIA, *REJECTED),
    )
)
_STRUCTURED = frozenset((*CONVERSATIONS, *HISTORIES, *TOOLS, *CALLS, *MEDIA))
_LONGEST_LITERAL = 2**20
_TURN_KEYS = ("role", "content", "from", "value")
_PLACE = re.compile(r"-?[0-9]{1,9}")


def is_empty(value: Any) -> bool:
    """Whether a field holds nothing: null, blank text, an empty list or object."""
    if isinstance(value, str):
        return not value or value.isspace()
    return value is None or (isinstance(value, list | dict) and not value)


def holds_something(name: str, value: Any) -> bool:
    """Whether a known field is filled. JSON text of an empty value, as in tables, is empty too."""
    if isinstance(value, str) and name not in _STRUCTURED:
        return bool(value) and not value.isspace()
    if is_empty(value):
        return False
    if name in _STRUCTURED:
        if isinstance(value, str):
            return value.strip() not in ("[]", "{}", "null", "None")
        if name in MEDIA:
            listed = value if isinstance(value, list) else [value]
            return not all(is_empty(v) or isinstance(v, bool | int | float) for v in listed)
    return True


def kind_of(value: Any) -> str:
    """The type of a value, in words."""
    names = {"str": "text", "NoneType": "null", "list": "a list", "dict": "an object"}
    return names.get(type(value).__name__, f"a {type(value).__name__}")


def clean(text: str, field: str) -> str:
    """Unify line ends and drop a byte order mark. Raises RowError for text that is not UTF-8."""
    if not text.isascii():
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as e:
            raise RowError(
                "invalid_unicode", field, f"half of a surrogate pair at character {e.start}"
            ) from e
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    return text.removeprefix("\ufeff")


def lookup(row: Any, dotted: str) -> Any:
    """The value at a name, None where there is none.

    A field of exactly this name comes first. Else dots lead into objects, and numbers into lists.
    """
    if isinstance(row, Mapping) and dotted in row:
        return row[dotted]
    node = row
    for name in dotted.split("."):
        if isinstance(node, Mapping):
            node = node.get(name)
        elif isinstance(node, list) and _PLACE.fullmatch(name):
            place = int(name)
            node = node[place] if -len(node) <= place < len(node) else None
        else:
            return None
    return node


def required(row: Mapping[str, Any], dotted: str) -> Any:
    """The value at a name. Raises RowError where there is none."""
    value = lookup(row, dotted)
    if value is None:
        what = f"field {dotted!r} is null" if dotted in row else f"the row has no field {dotted!r}"
        raise RowError("wrong_type" if dotted in row else "missing_field", dotted, what)
    return value


def text_at(value: Any, field: str) -> str:
    """The text in a field. A list of texts becomes lines. Raises RowError for other values."""
    if isinstance(value, str):
        return clean(value, field)
    if isinstance(value, list) and value and all(isinstance(v, str) for v in value):
        return clean("\n".join(value), field)
    raise RowError("wrong_type", field, f"field {field!r} must be text, it is {kind_of(value)}")


def said_at(value: Any, field: str) -> str:
    """As `text_at`. A number or a truth value becomes its JSON text."""
    if isinstance(value, bool | int | float):
        return compact(value, field)
    return text_at(value, field)


def compact(value: Any, field: str) -> str:
    """The value as JSON text without spaces, with keys in the row's order. Raises RowError."""
    try:
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=str)
    except (ValueError, RecursionError) as e:
        raise RowError("not_json", field, f"{field} cannot be JSON: {e}") from e
    return clean(text, field)


def from_json(text: str) -> Any:
    """Parse the text of a list or object; None for any other text."""
    if text[:1] not in "[{" and text.lstrip()[:1] not in ("[", "{"):
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    if len(text) > _LONGEST_LITERAL:
        return None
    try:  # tables that were written with Python's repr
        value = json.loads(json.dumps(ast.literal_eval(text.strip())))  # only values that JSON has
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        return None
    return value if isinstance(value, list | dict) else None


def turns_text(value: Any) -> Any:
    """Parse the JSON text of a list of turns, as tables have it. Other values stay as they are."""
    if isinstance(value, str) and value[:2] == "[{" and any(k in value[:24] for k in _TURN_KEYS):
        parsed = from_json(value)
        return value if parsed is None else parsed
    return value


@dataclass(frozen=True, slots=True)
class Filled:
    """The filled fields of a row, by kind. In each kind the preferred field comes first."""

    chats: tuple[str, ...]
    prompts: tuple[str, ...]
    answers: tuple[str, ...]
    passages: tuple[str, ...]
    systems: tuple[str, ...]
    histories: tuple[str, ...]
    tools: tuple[str, ...]
    calls: tuple[str, ...]
    reasonings: tuple[str, ...]
    media: tuple[str, ...]


@functools.lru_cache(maxsize=4096)
def sorted_out(filled: tuple[str, ...]) -> Filled:
    """Sort known fields by kind."""
    groups = (
        CONVERSATIONS,
        PROMPTS,
        ANSWERS,
        PASSAGES,
        SYSTEMS,
        HISTORIES,
        TOOLS,
        CALLS,
        REASONINGS,
        MEDIA,
    )
    return Filled(*(tuple(n for n in group if n in filled) for group in groups))

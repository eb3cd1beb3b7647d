"""Compile a model's chat template with a fixed date, and find which fields it has.

The environment is the one that transformers documents for chat templates: trimmed blocks, `break`
and `continue`, `{% generation %}`, `tojson` that escapes no HTML, `raise_exception` and
`strftime_now`.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.sandbox

from mads_ray.capture.prompts.clock import strftime_now
from mads_ray.capture.prompts.opaque import only_prints_contents
from mads_ray.errors import ModelError

# Errors of templates for a conversation that they cannot render: refusals and faults.
REFUSALS = (
    jinja2.TemplateError,
    TypeError,
    ValueError,
    LookupError,
    AttributeError,
    RecursionError,
)
_PROBE = "zq{}xv"
_REASONING_FIELDS = ("reasoning_content", "thinking", "reasoning")


class _Generation(jinja2.ext.Extension):
    """`{% generation %}` marks the assistant's text for trainers. Here only the text counts."""

    tags = {"generation"}  # noqa: RUF012 - jinja's interface

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.Scope(body, lineno=line)


def _tojson(
    x: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def _environment() -> jinja2.Environment:
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = strftime_now
    return environment


@dataclass(frozen=True, slots=True)
class Fields:
    """The fields of turns that a template shows.

    `calls`: "object" where a call's arguments must be an object, "text" where they must be JSON
    text, "" where calls are not shown. `reasoning`: the name of its field. `short_ids`: ids of
    calls must have 9 letters or digits.
    """

    tools: bool = False
    calls: str = ""
    reasoning: str = ""
    short_ids: bool = False


class ChatTemplate:
    """One template of a tokenizer."""

    def __init__(self, source: str, variables: dict[str, Any]) -> None:
        self.source = source
        environment = _environment()
        try:
            self._compiled = environment.from_string(source)
            tree = environment.parse(source)
        except jinja2.TemplateError as e:
            raise ModelError(f"the model's chat template cannot be read: {e}") from e
        # Texts that the template may look for in contents.
        constants = [c.value for c in tree.find_all(jinja2.nodes.Const)]
        self.constants = {c for c in constants if isinstance(c, str) and c}
        self.only_prints_contents = only_prints_contents(tree)
        self.splits_reasoning = any("</think>" in c for c in self.constants)
        self._variables = variables
        self.fields = self._ask()

    def render(
        self, messages: Sequence[dict[str, Any]], tools: Sequence[dict[str, Any]] = ()
    ) -> str:
        """Render messages and tool definitions. Raises one of REFUSALS."""
        return self._compiled.render(
            messages=messages,
            tools=list(tools) or None,
            documents=None,
            add_generation_prompt=False,
            **self._variables,
        )

    def _ask(self) -> Fields:
        name = _PROBE.format("tool")
        function = {"name": name, "description": "d", "parameters": _PARAMETERS}
        tools = [{"type": "function", "function": function}]
        shows_tools = name in self._try([_user()], tools)
        given = tools if shows_tools else []
        calls, short = "", False
        for short_ids in (False, True):
            call_id = "zqcall001" if short_ids else "call_zq_001"
            calls = next((f for f in ("object", "text") if self._shows(f, call_id, given)), "")
            if calls:
                short = short_ids
                break
        thought = _PROBE.format("thought")
        reasoning = ""
        for field in _REASONING_FIELDS:
            answer = {"role": "assistant", "content": "x", field: thought}
            if thought in self._try([_user(), answer], []):
                reasoning = field
                break
        return Fields(shows_tools, calls, reasoning, short)

    def _shows(self, form: str, call_id: str, tools: list[dict[str, Any]]) -> bool:
        """Whether it shows a call's name and arguments, and not as Python's repr."""
        key, value = _PROBE.format("key"), _PROBE.format("value")
        arguments: Any = {key: value}
        if form == "text":
            arguments = json.dumps(arguments)
        call = call_message(_PROBE.format("call"), arguments, call_id)
        answer = {"role": "assistant", "content": "", "tool_calls": [call]}
        result = {"role": "tool", "content": "x", "name": "f", "tool_call_id": call_id}
        for turns in ([_user(), answer, result], [_user(), answer]):
            text = self._try(turns, tools)
            if all(part in text for part in (_PROBE.format("call"), key, value)):
                return f"'{key}'" not in text and f'\\"{key}' not in text
        return False

    def _try(self, messages: list[dict[str, Any]], tools: list[dict[str, Any]]) -> str:
        try:
            return self.render(messages, tools)
        except REFUSALS:
            return ""


_PARAMETERS = {
    "type": "object",
    "properties": {"a": {"type": "string", "description": "d"}},
    "required": ["a"],
}


def _user() -> dict[str, Any]:
    return {"role": "user", "content": "x"}


def call_message(name: str, arguments: Any, call_id: str) -> dict[str, Any]:
    """A message with a call, as templates expect it."""
    return {
        "id": call_id,
        "type": "function",
        "function": {"name": name, "arguments": arguments},
    }


class Templates:
    """The chat templates of a tokenizer: the usual one, and one for rows with tools."""

    def __init__(self, tokenizer: Any) -> None:
        stored = tokenizer.chat_template
        self.usual: ChatTemplate | None = None
        self.tools: ChatTemplate | None = None
        if not stored:
            self.digest = "none"
            return
        self.digest = hashlib.sha256(json.dumps(stored, sort_keys=True).encode()).hexdigest()[:16]
        try:
            usual = tokenizer.get_chat_template()
            tools = tokenizer.get_chat_template(tools=[{}])
        except ValueError as e:
            raise ModelError(f"the model's chat template cannot be chosen: {e}") from e
        self.usual = ChatTemplate(usual, tokenizer.special_tokens_map)
        same = tools == usual
        self.tools = self.usual if same else ChatTemplate(tools, tokenizer.special_tokens_map)


def control_tokens(tokenizer: Any, templates: Templates) -> tuple[dict[str, int], set[str]]:
    """The control tokens of a model with their ids, and those of them that are special.

    Control tokens are the tokenizer's special tokens and other added tokens that the template
    writes (role names). The tags of reasoning and calls are not: they are text to train on.
    """
    both = [t for t in (templates.usual, templates.tools) if t is not None]
    written = "\0".join(t.source for t in both)
    found: dict[str, int] = {}
    special: set[str] = set()
    for number, token in tokenizer.added_tokens_decoder.items():
        text = token.content
        if token.special:
            special.add(text)
        elif text not in written or not text.strip() or _TAG.fullmatch(text):
            continue
        found[text] = number
    return found, special


_TAG = re.compile(r"[<\[]/?[\w|]*(think|thought|reason|tool)[\w|]*[>\]]", re.IGNORECASE)

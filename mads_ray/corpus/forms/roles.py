"""The many names of the four roles."""

from __future__ import annotations

ROLES = {
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "bot": "assistant",
    "chatgpt": "assistant",
    "chatbot": "assistant",
    "model": "assistant",
    "function_call": "assistant",
    "tool_call": "assistant",
    "tool_calls": "assistant",
    "ai": "assistant",
    "system": "system",
    "developer": "system",
    "tool": "tool",
    "function": "tool",
    "function_response": "tool",
    "tool_response": "tool",
    "tool_result": "tool",
    "tool_output": "tool",
    "observation": "tool",
    "ipython": "tool",
    "environment": "tool",
}
_CALLING = ("function_call", "tool_call", "tool_calls")  # roles whose content is the call
PLAIN = {name: role for name, role in ROLES.items() if name not in _CALLING}


def role_of(named: str) -> str | None:
    """The role of this name: system, user, assistant or tool. None for an unknown name."""
    return ROLES.get(_in_letters(named))


def is_calling(named: str) -> bool:
    """Whether the content of this role is a tool call."""
    return _in_letters(named) in _CALLING


def _in_letters(named: str) -> str:
    return named.strip().lower().replace("-", "_").replace(" ", "_")

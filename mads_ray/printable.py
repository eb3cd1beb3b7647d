"""Make text of a corpus safe to show on a terminal, in a log line or on a page.

Rows, file names, labels and error messages may hold escape sequences that change a terminal, marks
that reverse the order of the text after them, halves of characters that no stream can encode, or
megabytes of text. All text that a person sees goes through this module.
"""

from __future__ import annotations

import logging
import re
import sys

LONGEST = 8000  # characters of a message or a log line
# C0 without tab and line feed, DEL, C1, separators of lines and paragraphs, marks of direction, and
# halves of surrogate pairs.
_ACTING = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u206f\ufeff\ud800-\udfff]"
)


def printable(text: str) -> str:
    """The text with every character that acts on a terminal spelled out, as \\x1b or \\u202e.

    Line feeds and tabs stay. A carriage return before a line feed is removed.
    """
    return _ACTING.sub(_spelled, text.replace("\r\n", "\n"))


def one_line(text: str) -> str:
    """`printable` on one line, without line feeds and tabs: for a name within a line."""
    return printable(re.sub(r"[\r\n\t]+", " ", text))


def is_utf8(text: str) -> bool:
    """Whether UTF-8 can encode the text. It cannot encode halves of surrogate pairs."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def as_utf8(text: str) -> str:
    """The text with a question mark for each half of a surrogate pair."""
    return text.encode("utf-8", errors="replace").decode("utf-8")


def shortened(text: str, longest: int = LONGEST) -> str:
    """The text, or its beginning and end with the number of characters that it had."""
    if len(text) <= longest:
        return text
    told = f" ... ({len(text):,} characters) ... "
    left = max(0, longest - len(told))
    tail = left // 4
    return text[: left - tail] + told + text[len(text) - tail :]


def log_plainly(level: int) -> None:
    """Let logs go to stderr as plain lines that are safe to show."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(PlainFormatter("%(message)s"))
    logging.basicConfig(level=level, handlers=[handler])


class PlainFormatter(logging.Formatter):
    """Formats a record with its traceback as text that is safe to show."""

    def format(self, record: logging.LogRecord) -> str:
        """The line or lines of a record."""
        return printable(shortened(super().format(record)))


def _spelled(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"

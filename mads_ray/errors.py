"""Errors that a user can act on. All of them are `ValueError`s; broken invariants are `assert`s."""


class MadsRayError(ValueError):
    """Base of every error whose message tells a user what to change."""


class ConfigError(MadsRayError):
    """A run configuration that cannot be carried out."""


class CorpusError(MadsRayError):
    """An input that cannot be read at all; a single broken row is never one of these."""


class BrokenFileError(CorpusError):
    """One input file that breaks off, is damaged, is gone or has a form that is not read.

    `rows` were read before that place.
    """

    def __init__(self, message: str, rows: int = 0) -> None:
        super().__init__(message)
        self.rows = rows


class ChangedFileError(CorpusError):
    """An input file that changed between being found and being read to its end."""


class ModelError(MadsRayError):
    """A model that cannot be found, loaded or hooked."""


class MismatchError(MadsRayError):
    """A folder that does not fit this run: it holds other work or settings, or another run uses it.

    Also raised where the workers of one run loaded different models.
    """


class DamagedFileError(MismatchError):
    """A file of a run folder that is torn, changed, or of another program or version.

    It names the file, what is wrong with it, and what to do.
    """


class IncompleteError(MadsRayError):
    """A run that cannot finish, or that needs unfinished work of another. What is done is kept."""


class Stopped(KeyboardInterrupt):
    """A signal asked the run to stop. What is done is kept."""

    def __str__(self) -> str:
        return "stopped by SIGTERM"


class RowError(MadsRayError):
    """One row that cannot become an example; it goes to quarantine with this reason.

    `reason` is a short stable code, `field` the offending field ("" when it is the whole row).
    """

    def __init__(self, reason: str, field: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.field = field
        self.message = message

    def __reduce__(self) -> tuple[type["RowError"], tuple[str, str, str]]:
        return RowError, (self.reason, self.field, self.message)


def reason_of(e: BaseException, limit: int, line: int = 0, named: bool = False) -> str:
    """One line of an error's text, cut to `limit` characters.

    `line` counts the lines that are not blank: 0 is the first, -1 the last. `named` puts the name
    of the error's class before it. An error without text has that name only.
    """
    name = type(e).__name__
    lines = [text.strip() for text in str(e).splitlines() if text.strip()]
    if not lines:
        return name
    text = lines[min(line, len(lines) - 1)][:limit]
    return f"{name}: {text}" if named else text

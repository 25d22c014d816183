"""What is wrong with a configuration, said so that it can be mended."""

import attrs


@attrs.frozen(order=True)
class Problem:
    """One thing that is wrong.

    `key` is dotted (`server.bind`), empty when the file as a whole is meant. `line` counts from 1 in the file; None
    when the value came from elsewhere (`source` then names the environment variable or credential) or is a default.
    `given` names other keys whose values make it one: while one of these is wrong itself, it may be none.
    """

    key: str
    message: str
    line: int | None = None
    source: str | None = None
    given: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Return `key: what is wrong (line N)`, the form that the command line and the log show."""
        where = f" (line {self.line})" if self.line is not None else f" ({self.source})" if self.source else ""
        return f"{self.key}: {self.message}{where}" if self.key else f"{self.message}{where}"


class ConfigError(Exception):
    """A configuration that cannot be used; `problems` has all that is wrong with it, in the file's order."""

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = problems
        super().__init__("\n".join(str(problem) for problem in problems))

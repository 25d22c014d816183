"""Patterns of paths, as tables of routes are written in them: "/ws/control/{org_id}"."""

__all__ = ["Pattern", "has_names", "match_path", "parse_path"]

Pattern = tuple[str, ...]
"""The segments of a path; one in braces matches any non-empty segment and names it."""


def parse_path(path: str) -> Pattern:
    """Return the pattern that a path with names in braces means."""
    return tuple(path[1:].split("/"))


def has_names(pattern: Pattern) -> bool:
    """Tell whether a pattern means more than one path."""
    return any(segment.startswith("{") for segment in pattern)


def match_path(pattern: Pattern, segments: tuple[str, ...]) -> dict[str, str] | None:
    """Return what the names of a pattern stand for in a request's `segments`, None when it does not match."""
    if len(pattern) != len(segments):
        return None
    names = {}
    for wanted, given in zip(pattern, segments, strict=True):
        if wanted.startswith("{"):
            if not given:
                return None
            names[wanted[1:-1]] = given
        elif wanted != given:
            return None
    return names

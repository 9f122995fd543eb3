"""What commands' options have in common."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import click


def parsed(parse: Callable[[str], Any]) -> Callable[..., Any]:
    """Return a callback of click's that says what is wrong with an option or argument."""

    def callback(_context: click.Context, _parameter: click.Parameter, given: Any) -> Any:
        if given is None:
            return None
        try:
            return [parse(one) for one in given] if isinstance(given, tuple) else parse(given)
        except ValueError as error:
            raise click.BadParameter(str(error)) from error

    return callback


def project_version() -> str:
    """Return the version that is installed; "unknown" where none is."""
    try:
        return version("tandem")
    except PackageNotFoundError:
        return "unknown"

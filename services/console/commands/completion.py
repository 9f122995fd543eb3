"""`tandem completion`: what a shell evaluates to complete this command line."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

_SHELLS = ("bash", "zsh", "fish")
_EXAMPLES = """\b
Examples:
  eval "$(tandem completion bash)"                                     in ~/.bashrc
  eval "$(tandem completion zsh)"                                      in ~/.zshrc
  tandem completion fish > ~/.config/fish/completions/tandem.fish
"""


@click.command("completion", epilog=_EXAMPLES)
@click.argument("shell", type=click.Choice(_SHELLS))
@click.pass_context
def completion_command(context: click.Context, shell: str) -> None:
    """Print what completes commands, options and their choices in a SHELL."""
    found = get_completion_class(shell)
    assert found is not None, "click knows these three"
    click.echo(found(context.find_root().command, {}, "tandem", "_TANDEM_COMPLETE").source())

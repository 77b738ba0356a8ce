"""`stillhouse completion`: a script that a shell completes our words by, made of the parser itself."""

import argparse

import shtab

from stillhouse.commands.shipped import shipped

FILES = {"recipe", "run", "file", "data", "out", "questions", "teacher", "student", "source"}
"""Arguments, most of whose values are files or folders."""


def script(parser: argparse.ArgumentParser, shell: str) -> str:
    """The completion script for bash, zsh or tcsh."""
    for verb, one in _verbs(parser).items():
        for action in one._actions:
            if verb == "recipes" and action.dest == "name":
                action.choices = [recipe.name for recipe in shipped()]
            elif action.dest in FILES and not action.choices:
                action.complete = shtab.FILE  # type: ignore[attr-defined]
    return str(shtab.complete(parser, shell))


def _verbs(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """Every verb's own parser."""
    groups = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    return {name: one for group in groups for name, one in group.choices.items()}

"""The command line, parsed by tyro; what is wrong with it becomes a sentence."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import is_dataclass
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_type_hints

import tyro

# Its hook alone gives errors as objects. It may change or go: what `_sentence` does not know is said by tyro itself.
try:
    from tyro import _errors
except ImportError:
    _errors = None  # type: ignore[assignment]      # a module, as a rule


class _Mistake(Exception):
    """What is wrong with the command line; no ValueError, which tyro would catch."""


def parsed(cli: Callable[..., Any], words: Sequence[str], levels: Sequence[Mapping[str, Any]]) -> Any:
    """Return what tyro makes of the words; raise a ValueError where they are wrong.

    `levels` are what the first words may be: commands, then recipes, by name.
    """
    def hook(event: _errors.ParseErrorEvent) -> None:
        if sentence := _sentence(event, words, levels):
            raise _Mistake(sentence)

    try:
        with nullcontext() if _errors is None else _errors.on_parse_error(hook):
            return cli(args=words, config=(tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff,
                                           tyro.conf.DisallowNone))
    except _Mistake as mistake:
        raise ValueError(str(mistake)) from None


def _sentence(event: _errors.ParseErrorEvent, words: Sequence[str], levels: Sequence[Mapping[str, Any]]) -> str | None:
    """Say what is wrong; None leaves it to tyro, as new kinds of errors."""
    match event:
        case _errors.UnrecognizedArgs():
            return _unrecognized(event.tokens, words, levels)
        case _errors.MissingArgs():
            names = (arg.lowered.metavar if arg.is_positional() else arg.display_name()
                     for arg in (missing.arg for missing in event.missing_arguments))
            command = f"{event.prog} {event.missing_arguments[0].source_parser.prog_suffix}".strip()
            return f"Missing from {command}: {', '.join(map(str, names))}"
        case _errors.MissingSubcommand():
            return f"Expected one of {', '.join(event.subcommand_spec.parser_from_name)}"
        case _errors.BadValue(reason="too_few_values"):
            return f"Missing value for argument '{event.argument.display_name()}'"
        case _errors.InvalidChoice():
            return (f"invalid choice '{event.value}' for argument '{event.argument.display_name()}'. Expected one of "
                    f"{event.choices}{meant(event.value, event.choices)}")
        case _errors.InstantiationFailure(argument=argument) if argument is not None:
            return f"Error parsing {argument.display_name()}: {event.message}"
    return None


def _unrecognized(tokens: Sequence[str], words: Sequence[str], levels: Sequence[Mapping[str, Any]]) -> str:
    takers = []
    for word, names in zip(words, levels):
        if word in names:
            takers.append(names[word])
        elif word == tokens[0] and not (takers and word.startswith("-")):
            # What follows a word that is not known is no mistake.
            return f"Unrecognized options: {word}; Available subcommands: {', '.join(names)}{meant(word, names)}"
    options = dict(option for taker in takers for option in _options(taker))
    close = [name for token in tokens if token.startswith("--")
             for name in difflib.get_close_matches(token.partition("=")[0], options, 1, 0.8)]
    return f"Unrecognized options: {', '.join(tokens)}" + (
        f"; Perhaps you meant: {', '.join(name + options[name] for name in close)}" if close else "")


def _options(taker: Any) -> Iterator[tuple[str, str]]:
    """The options of a command or a recipe, each with what its value is where that is one number, text or path."""
    hints = get_type_hints(taker)
    for name, parameter in inspect.signature(taker).parameters.items():
        hint = hints.get(name)
        kinds = [kind for kind in get_args(hint) or (hint,) if kind is not NoneType]
        if parameter.kind is parameter.POSITIONAL_ONLY or any(map(is_dataclass, kinds)):    # which are named by words
            continue
        option = ("no-" if parameter.default is True else "") + name.replace("_", "-")
        yield f"--{option}", f" {kinds[0].__name__.upper()}" if kinds in ([int], [float], [str], [Path]) else ""


def given(words: Iterable[str]) -> set[str]:
    """The names that the options among the words have in Python; of a flag, with and without "no"."""
    options = {word.partition("=")[0].lstrip("-") for word in words if word.startswith("--")}
    return {name.replace("-", "_") for option in options for name in (option, option.removeprefix("no-"))}


def meant(word: str, names: Iterable[str]) -> str:
    """What an error adds that says that a word is none of these names: the one that is most like it."""
    close = difflib.get_close_matches(word.lower(), names, 1)
    return f"; did you mean {close[0]}?" if close else ""

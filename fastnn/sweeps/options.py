"""The options that a sweep searches: as a study draws and holds them, as a recipe takes them, as text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastnn._extras import require
from fastnn.recipes.space import Range, Space


def suggest(trial: Any, space: Space) -> dict[str, Any]:
    """Draw the options of a trial, and return them as values for the recipe's fields."""
    drawn: dict[str, Any] = {}
    for name, choice in space.items():
        if isinstance(choice, Range):
            draw = trial.suggest_int if choice.draws_integers else trial.suggest_float
            drawn[name] = draw(name, choice.low, choice.high, log=choice.log)
        else:
            drawn[name] = trial.suggest_categorical(name, [label(value) for value in choice])
    return values(drawn, space)


def distribution(choice: Any) -> Any:
    """What a study holds of how `suggest` draws an option."""
    distributions = require("optuna", "a sweep", "sweep").distributions
    if not isinstance(choice, Range):
        return distributions.CategoricalDistribution([label(value) for value in choice])
    kind = distributions.IntDistribution if choice.draws_integers else distributions.FloatDistribution
    return kind(choice.low, choice.high, log=choice.log)


def holds(choice: Any, value: Any) -> bool:
    """Whether `suggest` can have drawn a value; which of several choices it is, Optuna sees to."""
    return choice.low <= value <= choice.high if isinstance(choice, Range) else True


def values(params: Mapping[str, Any], space: Space) -> dict[str, Any]:
    """Return the values for the recipe's fields of what a study holds."""
    meant = {name: {label(value): value for value in choice}
             for name, choice in space.items() if not isinstance(choice, Range)}
    return {name: meant[name][params[name]] if name in meant else params[name] for name in space}


def label(value: Any) -> Any:
    """What a study holds of a choice: itself, but of a tuple its text."""
    return f"({', '.join(map(str, value))})" if isinstance(value, tuple) else value


def text(choice: Any) -> str:
    """What is said of what an option is drawn from."""
    return str(choice) if isinstance(choice, Range) else ", ".join(str(label(value)) for value in choice)


def is_log(choice: Any) -> bool:
    """Whether the axis of an option is logarithmic: that of choices is where they are numbers above 0."""
    if isinstance(choice, Range):
        return choice.log
    return all(isinstance(value, int | float) and value > 0 for value in choice)


def shown(params: Mapping[str, Any], space: Space) -> list[str]:
    """Return the options that were drawn, as they are printed."""
    return [f"{params[name]:.4g}" if isinstance(params[name], float) else str(params[name])
            for name in space if name in params]

"""The command that searches a recipe's options."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import tyro

from fastnn import sweeps
from fastnn.cli.ending import stopped
from fastnn.cli.parsing import given
from fastnn.cli.runs import any_of
from fastnn.recipes import Recipe
from fastnn.recipes.base import arguments, called


def sweep_with(words: Sequence[str], named: Mapping[str, type[Recipe]]) -> Callable[..., int]:
    """Return the command "sweep" of these recipes; `words` is what follows it on the command line."""
    def sweep(recipe: Any, trials: int = 30, workers: int = 1, study: Path | None = None) -> int:
        """Search the options with which a recipe reaches its best validation accuracy.

        Each trial trains with options drawn from the recipe's search space; those that are given here are fixed. Poor
        trials are given up early. After Ctrl-C, SIGTERM or SIGHUP, or when it was killed, the same command with the
        study's file goes on. A recipe of your own is called MODULE:CLASS or FILE.py:CLASS.

        Parameters
        ----------
        trials : int
            How many results there are at the end, with those that the study has already.
        workers : int
            How many processes try at once; each gets its share of the cores.
        study : Path
            The study's file, beside which trials, pictures and the report lie; by default study.db in
            runs/sweep-RECIPE-N with the first number N that is free.
        """
        chosen: Any = recipe
        fixed = [name for name in chosen.space if name in given(words)]
        whole = sweeps.Sweep(chosen, trials, workers, study, fixed)
        try:
            whole.run()
        except KeyboardInterrupt as error:
            if whole.study is None:
                raise
            options = {**chosen.changed(), **{name: getattr(chosen, name) for name in whole.fixed},
                       **({"track": chosen.track} if chosen.track else {}),
                       "trials": trials, "workers": workers, "study": whole.study}
            return stopped(error, shlex.join(["fastnn", "sweep", called(type(chosen)), *arguments(options)]))
        return 0

    sweep.__annotations__["recipe"] = any_of(named)
    return tyro.conf.configure(tyro.conf.CascadeSubcommandArgs)(sweep)

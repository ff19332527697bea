"""Sweeps: trials of a recipe with other options, by several processes, in a study that can go on.

Examples
--------
>>> from fastnn import recipes, sweeps
>>> sweep = sweeps.Sweep(recipes.CNN(epochs=5), trials=20, workers=2)     # sweep.run() does it
>>> sorted(sweep.space)
['batch_size', 'lr']
"""

from fastnn.sweeps.sweep import Sweep

__all__ = ["Sweep"]

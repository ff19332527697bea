"""Optimizers, learning-rate schedules and gradient clipping."""

from __future__ import annotations

from fastnn.optim.clipping import clip_grad_norm_, clip_grad_value_
from fastnn.optim.optimizers import SGD, Adam, AdamW, Optimizer, RMSProp, parameter_groups
from fastnn.optim.schedules import CosineLR, MultiStepLR, OneCycleLR, StepLR, Warmup, simulate

__all__ = [
    "SGD",
    "Adam",
    "AdamW",
    "CosineLR",
    "MultiStepLR",
    "OneCycleLR",
    "Optimizer",
    "RMSProp",
    "StepLR",
    "Warmup",
    "clip_grad_norm_",
    "clip_grad_value_",
    "parameter_groups",
    "simulate",
]

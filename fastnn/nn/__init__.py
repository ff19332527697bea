"""Layers, losses and initial weights.

A layer's `forward` returns its result and the function that carries a gradient back: no tape, nothing stored on the
layer but parameters, their gradients and running statistics. Names are torch's, so that `state_dict` maps one to one.
"""

from __future__ import annotations

from fastnn.nn import init
from fastnn.nn.activation import GELU, LeakyReLU, LogSoftmax, ReLU, Sigmoid, SiLU, Softmax, Softplus, Tanh
from fastnn.nn.attention import KeyValueCache, MultiheadAttention, TransformerBlock
from fastnn.nn.container import Checkpointed, Composed, ModuleList, Residual, Sequential
from fastnn.nn.dropout import Dropout
from fastnn.nn.embedding import Embedding, SinusoidalEmbedding, SinusoidalPositions
from fastnn.nn.linear import Conv2d, ConvTranspose2d, Linear
from fastnn.nn.loss import BCEWithLogitsLoss, CrossEntropyLoss, HingeLoss, MSELoss, TokenCrossEntropyLoss
from fastnn.nn.module import Backward, LoadResult, Module, Parameter, once, repeats
from fastnn.nn.normalization import BatchNorm1d, BatchNorm2d, GroupNorm, LayerNorm
from fastnn.nn.pooling import AdaptiveAvgPool2d, AdaptiveMaxPool2d, AvgPool2d, MaxPool2d
from fastnn.nn.resampling import Upsample
from fastnn.nn.shape import Flatten, Identity
from fastnn.nn.variational import ELBOLoss, GaussianKLLoss, Reparameterization, Variational

__all__ = [
    "GELU",
    "AdaptiveAvgPool2d",
    "AdaptiveMaxPool2d",
    "AvgPool2d",
    "BCEWithLogitsLoss",
    "Backward",
    "BatchNorm1d",
    "BatchNorm2d",
    "Checkpointed",
    "Composed",
    "Conv2d",
    "ConvTranspose2d",
    "CrossEntropyLoss",
    "Dropout",
    "ELBOLoss",
    "Embedding",
    "Flatten",
    "GaussianKLLoss",
    "GroupNorm",
    "HingeLoss",
    "Identity",
    "KeyValueCache",
    "LayerNorm",
    "LeakyReLU",
    "Linear",
    "LoadResult",
    "LogSoftmax",
    "MSELoss",
    "MaxPool2d",
    "Module",
    "ModuleList",
    "MultiheadAttention",
    "Parameter",
    "ReLU",
    "Reparameterization",
    "Residual",
    "Sequential",
    "SiLU",
    "Sigmoid",
    "SinusoidalEmbedding",
    "SinusoidalPositions",
    "Softmax",
    "Softplus",
    "Tanh",
    "TokenCrossEntropyLoss",
    "TransformerBlock",
    "Upsample",
    "Variational",
    "init",
    "once",
    "repeats",
]

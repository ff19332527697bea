"""Convolution and pooling with the course's arguments and caches, on any target."""

from __future__ import annotations

from typing import Any

from fastnn import kernels
from fastnn._checks import Array, as_int, check_shape
from fastnn.cs231n._common import Cache, course_names, entry, promoted

_CONV = {"weight": "w", "bias": "b", "grad_output": "dout"}


def conv_forward(x: Array, w: Array, b: Array, conv_param: dict[str, Any], target: str | None) -> tuple[Array, Cache]:
    images, filters, bias = promoted(x=x, w=w, b=b)
    with course_names(**_CONV):
        out = kernels.conv2d(images, filters, bias, **_geometry(conv_param), target=target)
    return out, (x, w, b, conv_param)


def conv_backward(dout: Array, cache: Cache, target: str | None) -> tuple[Any, ...]:
    x, w, _, conv_param = cache
    dout, images, filters = promoted(dout=dout, x=x, w=w)
    with course_names(**_CONV):
        return kernels.conv2d_backward(dout, images, filters, **_geometry(conv_param), target=target)


def _geometry(conv_param: dict[str, Any]) -> dict[str, Any]:
    return {"stride": as_int("conv_param['stride']", entry("conv_param", conv_param, "stride"), 1),
            "padding": as_int("conv_param['pad']", entry("conv_param", conv_param, "pad"), 0)}


def max_pool(x: Array, pool_param: dict[str, Any], target: str | None) -> tuple[Array, Array]:
    """Return the maxima and where they are."""
    height, width, stride = (as_int(f"pool_param[{key!r}]", entry("pool_param", pool_param, key), 1)
                             for key in ("pool_height", "pool_width", "stride"))
    images, = promoted(x=x)
    with course_names(kernel_size="pool_param"):
        out, indices = kernels.max_pool2d(images, (height, width), stride=stride, return_indices=True, target=target)
    return out, indices


def max_pool_backward(dout: Array, indices: Array, shape: tuple[int, ...], target: str | None) -> Array:
    dout, = promoted(dout=dout)
    check_shape("dout", dout, indices.shape)
    return kernels.max_pool2d_backward(dout, indices, shape, target=target)

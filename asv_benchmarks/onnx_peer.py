"""Frozen networks of fastnn as ONNX Runtime takes them: the same layers with the same weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

import fastnn
from fastnn import nn

_OPERATORS = {nn.ReLU: "Relu", nn.AdaptiveAvgPool2d: "GlobalAveragePool", nn.Flatten: "Flatten"}


class _Graph:
    """Nodes and weights, which grow by a layer at a time."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.weights: list[Any] = []

    def constant(self, array: Any) -> str:
        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(array), f"w{len(self.weights)}"))
        return self.weights[-1].name

    def node(self, operator: str, *inputs: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(operator, inputs, [f"y{len(self.nodes)}"], **attributes))
        return self.nodes[-1].output[0]

    def add(self, layer: Any, x: str) -> str:
        """Add a layer that reads x; return the name of what it writes."""
        if isinstance(layer, nn.Residual):
            return self.node("Relu", self.node("Add", self.add(layer.body, x), self.add(layer.shortcut, x)))
        if isinstance(layer, nn.Sequential):
            for child in layer.children():
                x = self.add(child, x)
            return x
        if isinstance(layer, nn.Conv2d):
            inputs = [x, self.constant(layer.weight.data)]
            if layer.bias is not None:
                inputs.append(self.constant(layer.bias.data))
            return self.node("Conv", *inputs, strides=layer.stride, pads=layer.padding * 2, group=layer.groups)
        if isinstance(layer, nn.MaxPool2d):
            return self.node("MaxPool", x, kernel_shape=layer.kernel_size, strides=layer.stride, pads=layer.padding * 2)
        if isinstance(layer, nn.Linear):
            return self.node("Gemm", x, self.constant(layer.weight.data), self.constant(layer.bias.data), transB=1)
        return self.node(_OPERATORS[type(layer)], x)


def session(model: nn.Module, shape: tuple[int, ...], threads: int) -> Callable[[Any], Any]:
    """Return a function of images of a shape that ONNX Runtime computes as the frozen model does."""
    graph = _Graph()
    y = graph.add(fastnn.freeze(model).model, "x")
    made = helper.make_model(helper.make_graph(
        graph.nodes, "frozen", [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(y, TensorProto.FLOAT, (shape[0], None))], graph.weights),
        opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(made)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    run = onnxruntime.InferenceSession(made.SerializeToString(), options, providers=["CPUExecutionProvider"]).run
    return lambda x: run(None, {"x": x})[0]

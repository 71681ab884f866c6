"""Writing an ONNX graph operator by operator, and as arithmetic on float64."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


class GraphBuilder:
    """Nodes and constants as they are added; equal scalar constants are one."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, TensorProto] = {}

    def add(
        self, operator: str, *inputs: str | np.ndarray | np.generic, name: str = "", **attributes
    ) -> str:
        """Appends a node and returns the name of its one output."""
        output = name or f"{operator.lower()}_{len(self.nodes)}"
        names = [item if isinstance(item, str) else self.constant(item) for item in inputs]
        self.nodes.append(helper.make_node(operator, names, [output], name=output, **attributes))
        return output

    def constant(self, value: np.ndarray | np.generic, name: str = "") -> str:
        """The name of a constant, made on first use."""
        array = np.asarray(value)
        name = name or f"{array.dtype}_{'x'.join(map(str, array.shape))}_{array.tolist()}"
        if name not in self.initializers:
            self.initializers[name] = numpy_helper.from_array(np.ascontiguousarray(array), name)
        return name

    def shape(self, *sizes: int) -> np.ndarray:
        """A shape as the operand of Reshape, Expand or Resize."""
        return np.array(sizes, np.int64)


class Value:
    """A float64 tensor of a graph, or a Boolean one; Python's operators add nodes.

    Whole numbers below 2^53 stay exact, and so does `//` of two of them: it is the floor of a
    division, whose result is nearer to its exact value than that is to the next whole number.
    """

    def __init__(self, graph: GraphBuilder, name: str):
        self.graph = graph
        self.name = name

    def apply(self, operator: str, *others: Value | float | np.ndarray, **attributes) -> Value:
        """The value of an ONNX operator with this one as its first input."""
        names = [_operand(other) for other in others]
        return Value(self.graph, self.graph.add(operator, self.name, *names, **attributes))

    def __add__(self, other: Value | float) -> Value:
        return self.apply("Add", other)

    def __sub__(self, other: Value | float) -> Value:
        return self.apply("Sub", other)

    def __mul__(self, other: Value | float) -> Value:
        return self.apply("Mul", other)

    def __truediv__(self, other: Value | float) -> Value:
        return self.apply("Div", other)

    def __floordiv__(self, other: Value | float) -> Value:
        return (self / other).floor()

    def __ge__(self, other: Value | float) -> Value:
        return self.apply("GreaterOrEqual", other)

    def __lt__(self, other: Value | float) -> Value:
        return self.apply("Less", other)

    def __and__(self, other: Value) -> Value:
        return self.apply("And", other)

    def floor(self) -> Value:
        """The largest whole number that is not above."""
        return self.apply("Floor")

    def clip(self, low: Value | float, high: Value | float) -> Value:
        """Within [low, high]."""
        return self.apply("Max", low).apply("Min", high)

    def where(self, yes: Value | float, no: Value | float) -> Value:
        """Of a Boolean: `yes` where true, else `no`."""
        return self.apply("Where", yes, no)

    def sum(self, *axes: int, keep: bool = False) -> Value:
        """Sum along axes."""
        return self.apply("ReduceSum", np.array(axes, np.int64), keepdims=int(keep))

    def unsqueeze(self, *axes: int) -> Value:
        """New axes of length 1."""
        return self.apply("Unsqueeze", np.array(axes, np.int64))

    def reshape(self, *sizes: Value | int) -> Value:
        """Another shape of as many numbers."""
        if all(isinstance(size, int) for size in sizes):
            return self.apply("Reshape", np.array(sizes, np.int64))
        return self.apply("Reshape", shape_of(self.graph, *sizes))

    def to(self, kind: int) -> Value:
        """Cast to an element type of `TensorProto`."""
        return self.apply("Cast", to=kind)

    def doubles(self) -> Value:
        """Cast to float64."""
        return self.to(TensorProto.DOUBLE)


def constant(graph: GraphBuilder, value: float) -> Value:
    """A float64 number."""
    return Value(graph, graph.constant(np.float64(value)))


def length(tensor: Value, axis: int) -> Value:
    """The length of an axis, a float64 number."""
    shape = tensor.apply("Shape", start=axis, end=axis + 1)
    return shape.apply("Squeeze").doubles()


def count_to(number: Value) -> Value:
    """The numbers from 0 to below `number`."""
    zero = constant(number.graph, 0)
    return zero.apply("Range", number, 1.0)


def shape_of(graph: GraphBuilder, *sizes: Value | int) -> Value:
    """A shape, as the operand of Reshape and the like."""
    parts = [
        size.to(TensorProto.INT64).reshape(1).name
        if isinstance(size, Value)
        else np.array([size], np.int64)
        for size in sizes
    ]
    return Value(graph, graph.add("Concat", *parts, axis=0))


def _operand(value: Value | float | np.ndarray) -> str | np.ndarray | np.generic:
    if isinstance(value, Value):
        return value.name
    return value if isinstance(value, np.ndarray) else np.float64(value)

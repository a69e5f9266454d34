"""A builder of ONNX graphs, node by node. Knows no network."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

# Versions that ONNX Runtime 1.20 reads.
OPSET = 17
IR_VERSION = 9

Shape = Sequence[int | str]


class GraphBuilder:
    """Nodes in the order of their addition; arrays among their inputs become weights, without
    duplicates.

    graph = GraphBuilder({"sound": ("n", 160000)})
    graph.add("Relu", graph.add("Add", "sound", np.float32(1)), name="louder")
    model = graph.finish({"louder": ("n", 160000)})
    """

    def __init__(self, inputs: dict[str, Shape]) -> None:
        self._inputs = [_value(name, shape) for name, shape in inputs.items()]
        self._nodes: list[onnx.NodeProto] = []
        self._weights: dict[bytes, onnx.TensorProto] = {}

    def add(
        self,
        op: str,
        *inputs: str | NDArray[Any] | np.generic,
        name: str | None = None,
        **attributes: Any,
    ) -> str:
        """Append a node. Returns its only output, called `name` or by number."""
        output = name or f"{op.lower()}_{len(self._nodes)}"
        names = [
            value if isinstance(value, str) else self._weight(np.asarray(value)) for value in inputs
        ]
        self._nodes.append(helper.make_node(op, names, [output], name=output, **attributes))
        return output

    def finish(self, outputs: dict[str, Shape], doc: str = "") -> ModelProto:
        """The complete model, checked."""
        values = [_value(name, shape) for name, shape in outputs.items()]
        graph = helper.make_graph(
            self._nodes, "network", self._inputs, values, list(self._weights.values())
        )
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            producer_name="birdstation",
            doc_string=doc,
        )
        model.ir_version = IR_VERSION
        onnx.checker.check_model(model, full_check=True)
        return model

    def _weight(self, array: NDArray[Any]) -> str:
        # For a scalar, ascontiguousarray returns a row.
        whole = np.ascontiguousarray(array).reshape(array.shape)
        key = whole.tobytes() + f"{whole.dtype}{whole.shape}".encode()
        if key not in self._weights:
            self._weights[key] = numpy_helper.from_array(whole, f"weight_{len(self._weights)}")
        return self._weights[key].name


def _value(name: str, shape: Shape) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape))


def whole(*values: int) -> NDArray[np.int64]:
    """An int64 array, as ONNX needs for shapes, starts and pads."""
    return np.array(values, np.int64)

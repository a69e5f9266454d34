"""Converts a float32 ONNX network to half precision, strongly typed: the graph defines the type of
every tensor. Knows no TensorRT.

TensorRT 11 has no option for half precision any more, and with the option of earlier versions the
compiler chose the layers. Here the graph defines them: half precision from the first convolution to
the last; float32 before (normalisation of the image, or everything up to the tensor `features` if a
network takes the sound itself), after (pooling, logits, sigmoid), and in operators between whose
sums or exponentials exceed the range of float16. Input and output stay float32.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from edge.contract.errors import BundleError

_ANCHORS = ("Conv", "MatMul")
_SUMS = (
    "ReduceMean",
    "GlobalAveragePool",
    "ReduceL2",
    "Softmax",
    "Exp",
    "Pow",
    "Sqrt",
    "Reciprocal",
)
_NORMALISATIONS = (
    "LayerNormalization",
    "InstanceNormalization",
    "GroupNormalization",
    "BatchNormalization",
)


def to_half(source: Path, path: Path) -> bool:
    """Write to `path` the network `source` in half precision. Returns False, without a file, if it
    has no convolution to convert.

    Raises BundleError if a weight exceeds the range of float16.
    """
    model = onnx.load(source)
    half = _between_anchors(model.graph.node) - front_end_nodes(model)
    if not half:
        return False
    _Halved(model, half, source).rewrite()
    del model.graph.value_info[:]
    inferred = onnx.shape_inference.infer_shapes(
        model, check_type=True, strict_mode=True, data_prop=True
    )
    onnx.checker.check_model(inferred, full_check=True)
    onnx.save(inferred, path)
    return True


def front_end_nodes(model: ModelProto) -> set[int]:
    """Indices of the nodes up to `features`, the output of a network's own front end, if it has
    one: the image of the sound is computed in full precision."""
    needed = {"features"}
    found = set()
    for index, node in reversed(list(enumerate(model.graph.node))):
        if needed & set(node.output):
            found.add(index)
            needed |= set(node.input)
    return found


def _between_anchors(nodes: Iterable[NodeProto]) -> set[int]:
    """Indices of the nodes that have an anchor at or before them and one at or after them, without
    sums and normalisations."""
    nodes = list(nodes)
    before: set[str] = set()  # tensors that depend on an anchor
    after: set[str] = set()  # tensors on which an anchor depends
    for node in nodes:
        if node.op_type in _ANCHORS or before & set(node.input):
            before |= set(node.output)
    for node in reversed(nodes):
        if node.op_type in _ANCHORS or after & set(node.output):
            after |= set(node.input)
    return {
        index
        for index, node in enumerate(nodes)
        if before & set(node.output)
        and (node.op_type in _ANCHORS or after & set(node.output))
        and node.op_type not in (*_SUMS, *_NORMALISATIONS)
    }


class _Halved:
    """One rewriting of a graph: its nodes in order, with a Cast wherever a tensor is needed in the
    other type."""

    def __init__(self, model: ModelProto, half: set[int], source: Path) -> None:
        self._graph = model.graph
        self._half = half
        self._source = source
        inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True).graph
        values = (*inferred.value_info, *inferred.input, *inferred.output)
        typed = [(value.name, value.type.tensor_type.elem_type) for value in values]
        self._weights = {w.name: w for w in model.graph.initializer}
        typed += [(w.name, w.data_type) for w in self._weights.values()]
        self._floats = {name for name, kind in typed if kind == TensorProto.FLOAT}
        # (tensor of the source, type) -> its name in the new graph
        self._forms: dict[tuple[str, int], str] = {}
        self._nodes: list[NodeProto] = []

    def rewrite(self) -> None:
        """Replace the graph's nodes and weights."""
        outputs = {output.name for output in self._graph.output}
        for index, node in enumerate(self._graph.node):
            kind = TensorProto.FLOAT16 if index in self._half else TensorProto.FLOAT
            new = NodeProto()
            new.CopyFrom(node)
            new.input[:] = [self._as(name, kind) for name in node.input]
            for at, name in enumerate(node.output):
                if kind == TensorProto.FLOAT16 and name in self._floats:
                    assert name not in outputs, "the last anchor's output is never the network's"
                    new.output[at] = f"{name}_half"
                    self._forms[name, kind] = new.output[at]
            self._nodes.append(new)
        del self._graph.node[:]
        self._graph.node.extend(self._nodes)
        used = {name for node in self._nodes for name in node.input}
        weights = [w for w in self._graph.initializer if w.name in used]
        del self._graph.initializer[:]
        self._graph.initializer.extend(weights)

    def _as(self, name: str, kind: int) -> str:
        """The name of a tensor of the source in this type, which is added if needed. Tensors other
        than float32 stay unchanged."""
        if name not in self._floats:
            return name
        native = (
            TensorProto.FLOAT16 if (name, TensorProto.FLOAT16) in self._forms else TensorProto.FLOAT
        )
        if (name, kind) not in self._forms:
            if name in self._weights:
                self._forms[name, kind] = (
                    name if kind == TensorProto.FLOAT else self._halve_weight(name)
                )
            elif kind == native:
                self._forms[name, kind] = name
            else:
                made = f"{name}_half" if kind == TensorProto.FLOAT16 else name
                self._nodes.append(
                    helper.make_node(
                        "Cast", [self._forms.get((name, native), name)], [made], to=kind
                    )
                )
                self._forms[name, kind] = made
        return self._forms[name, kind]

    def _halve_weight(self, name: str) -> str:
        value = numpy_helper.to_array(self._weights[name])
        with np.errstate(over="ignore"):
            halved = value.astype(np.float16)
        if not np.array_equal(np.isfinite(value), np.isfinite(halved)):
            raise BundleError(
                f"{self._source}: weight {name} reaches {np.abs(value).max():.3g}; float16 ends at "
                "65504"
            )
        self._graph.initializer.append(numpy_helper.from_array(halved, f"{name}_half"))
        return f"{name}_half"

"""A float32 ONNX network in half precision, strongly typed: every tensor's type stands in the
graph. Knows no TensorRT.

TensorRT 11 has no switch for half precision any more, and before that a switch left to the compiler
what is halved. Here the graph says it: half from the first convolution to the last, float32 before
(the image's normalisation, or all that makes the tensor `features` where a network takes the sound
itself), behind (pooling, logits, sigmoid) and in the islands between, whose sums or exponentials
float16 does not hold. Input and output stay float32.
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
    """Write `path`, the network `source` in half precision; False, and no file, if it has no
    convolution to halve.

    Raises BundleError if a weight is beyond what float16 holds.
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
    """Indices of the nodes that make `features`, the tensor behind a network's own front end, where
    the graph has one: sound becomes its image in full precision."""
    wanted = {"features"}
    found = set()
    for index, node in reversed(list(enumerate(model.graph.node))):
        if wanted & set(node.output):
            found.add(index)
            wanted |= set(node.input)
    return found


def _between_anchors(nodes: Iterable[NodeProto]) -> set[int]:
    """Indices of the nodes that have an anchor at or before them and one at or after them, islands
    left out."""
    nodes = list(nodes)
    before: set[str] = set()  # tensors that hang on an anchor
    after: set[str] = set()  # tensors that an anchor hangs on
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
    """One rewriting of a graph: nodes in their order, a Cast wherever a tensor is needed in the
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
        # a tensor of the source and a type -> its name in the new graph
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
        """The name of a source's tensor in this type; it is made if need be. Other than float32
        stays as it is."""
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
                f"65504"
            )
        self._graph.initializer.append(numpy_helper.from_array(halved, f"{name}_half"))
        return f"{name}_half"

"""Heads and their backbone as one network: the backbone's graph with the heads behind its
embedding, so that a window is heard once for all members.

Knows no threshold.
"""

import csv
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper
from torch import nn

from edge.contract.bundle import LICENCE, NAMES, BundleMember, Licence
from edge.contract.errors import BundleError
from edge.contract.taxonomy import Taxonomy
from edge.contract.text import Table, text_of
from trainer.run import MemberInfo
from trainer.transfer.ensemble import TransferEnsemble
from trainer.transfer.heads import LENGTH, LENGTH_MIN, Head
from trainer.transfer.out_of_fold import OWN

_PREFIX = "heads/"
_EMBEDDING = "embedding"


def write_members(
    ensemble: TransferEnsemble, bag: Sequence[MemberInfo], taxonomy: Taxonomy, work: Path
) -> list[BundleMember]:
    """Write the network and the scales. Returns the members in the order of the ensemble's."""
    backbone = ensemble.backbone
    file = f"members/{Path(backbone.member.file).stem}.onnx"
    graph = _HeadGraph(ensemble)
    members = []
    for info, head, known in zip(bag, ensemble.heads, ensemble.known, strict=False):
        output = f"head_{info.name.replace('-', '_')}"
        mine = np.flatnonzero(known)
        graph.add_head(head, mine if len(mine) < len(taxonomy) else None, output)
        scale = ensemble.scales.head[:, mine]
        species = None if len(mine) == len(taxonomy) else [taxonomy.codes[i] for i in mine]
        member = BundleMember(
            info.name, file, info.kind, info.architecture, info.fold, info.seed, output=output
        )
        members.append(_with_scale(member, species, scale, work))
    if ensemble.classes:
        graph.add_own(np.array(list(ensemble.classes.values()), np.int64))
        codes = list(ensemble.classes)
        scale = ensemble.scales.own[:, [taxonomy.index(code) for code in codes]]
        member = BundleMember(OWN, file, OWN, backbone.member.architecture, output=OWN)
        members.append(_with_scale(member, codes, scale, work))
    onnx.save(graph.model(), work / file)
    return members


def _with_scale(
    member: BundleMember, species: list[str] | None, scale: NDArray[np.float32], work: Path
) -> BundleMember:
    """The member with the species that it knows, None: all, and its scale, which is written."""
    name = f"members/{member.name}.scale.npy"
    np.save(work / name, np.ascontiguousarray(scale))
    known = None if species is None else tuple(species)
    return replace(member, embedding=_EMBEDDING, species=known, scale=name)


class _HeadGraph:
    """The backbone's graph, growing."""

    def __init__(self, ensemble: TransferEnsemble) -> None:
        backbone = ensemble.backbone
        self._stretches = 1 if backbone.whole else backbone.stretches
        self._whole = backbone.whole
        self._model: ModelProto = onnx.load(
            str(backbone.bundle.folder / backbone.member.file), load_external_data=False
        )
        graph = self._model.graph
        self._taken = {name for node in graph.node for name in node.output}
        self._scores = backbone.member.output or graph.output[0].name
        inner = backbone.member.embedding
        assert inner is not None
        shape = [backbone.width] if self._whole else [backbone.stretches, backbone.width]
        self._outputs = [_value(inner, ["n", *shape])]
        if inner != _EMBEDDING:
            raise BundleError(
                f"{backbone.bundle.folder}: expected an output {_EMBEDDING}, found {inner}"
            )
        self._normalised = self._normalise(inner, backbone.width)

    def _normalise(self, embedding: str, width: int) -> str:
        """Embeddings of one length. With operators whose form no version of ONNX has changed."""
        squares = self._node("Mul", [embedding, embedding])
        total = self._node("MatMul", [squares, self._weight(np.ones((width, 1), np.float32))])
        length = self._node("Sqrt", [total])
        safe = self._node("Max", [length, self._weight(np.float32(LENGTH_MIN))])
        unit = self._node("Div", [embedding, safe])
        return self._node("Mul", [unit, self._weight(np.float32(LENGTH))])

    def add_head(self, head: Head, kept: NDArray[np.int64] | None, output: str) -> None:
        """Add a head with its scores of the species `kept`, or of all, as an output."""
        layers = (
            [head.layers] if isinstance(head.layers, nn.Linear) else list(head.layers.children())
        )
        found = self._normalised
        count = 0
        for layer in layers:
            if isinstance(layer, nn.Linear):
                count = layer.out_features
                weight = layer.weight.detach().numpy().T
                product = self._node("MatMul", [found, self._weight(np.ascontiguousarray(weight))])
                found = self._node("Add", [product, self._weight(layer.bias.detach().numpy())])
            elif isinstance(layer, nn.ReLU):
                found = self._node("Relu", [found])
        if not self._whole:
            # Not ReduceMax, whose axes moved to the inputs in operator set 18.
            each = [
                self._node("Gather", [found, self._weight(np.array(k, np.int64))], axis=1)
                for k in range(self._stretches)
            ]
            found = self._node("Max", each) if len(each) > 1 else each[0]
        if kept is not None:
            found = self._node("Gather", [found, self._weight(kept)], axis=1)
            count = len(kept)
        self._node("Sigmoid", [found], output)
        self._outputs.append(_value(output, ["n", count]))

    def add_own(self, classes: NDArray[np.int64]) -> None:
        """Add the backbone's own scores of these classes as an output."""
        self._node("Gather", [self._scores, self._weight(classes)], OWN, axis=1)
        self._outputs.append(_value(OWN, ["n", len(classes)]))

    def model(self) -> ModelProto:
        """The whole network, checked."""
        graph = self._model.graph
        del graph.output[:]
        graph.output.extend(self._outputs)
        onnx.checker.check_model(self._model)
        return self._model

    def _node(self, op: str, inputs: list[str], name: str = "", **attributes: Any) -> str:
        graph = self._model.graph
        output = name or f"{_PREFIX}{op.lower()}_{len(graph.node)}"
        if output in self._taken:
            raise BundleError(f"the backbone has an output {output} already")
        self._taken.add(output)
        graph.node.append(helper.make_node(op, inputs, [output], name=output, **attributes))
        return output

    def _weight(self, value: NDArray[np.generic] | np.generic) -> str:
        graph = self._model.graph
        array = np.asarray(value)
        name = f"{_PREFIX}weight_{len(graph.initializer)}"
        graph.initializer.append(numpy_helper.from_array(array, name))
        return name


def _value(name: str, shape: list[int | str]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def copy_names_and_licence(
    ensemble: TransferEnsemble, taxonomy: Taxonomy, work: Path
) -> Licence | None:
    """Copy what the backbone's bundle says of its licence, and the names of the corpus's species in
    other languages. Returns the licence: what is made of a model goes on under its terms."""
    bundle = ensemble.backbone.bundle
    if (bundle.folder / NAMES).is_file():
        _copy_names(ensemble, taxonomy, bundle.folder / NAMES, work / NAMES)
    if bundle.manifest.licence is not None:
        shutil.copyfile(bundle.folder / LICENCE, work / LICENCE)
    return bundle.manifest.licence


def _copy_names(ensemble: TransferEnsemble, taxonomy: Taxonomy, source: Path, target: Path) -> None:
    """Write the names by the corpus's codes; a species that the backbone does not know keeps its
    common name in every language."""
    codes = ensemble.backbone.bundle.taxonomy.codes
    own = {codes[index]: code for code, index in ensemble.classes.items()}
    table = Table(text_of(source.read_bytes()), ["code"])
    languages = table.names[1:]
    found = {
        own[row["code"]]: [row[language] for language in languages]
        for _, row in table
        if isinstance(row, dict) and row["code"] in own
    }
    with target.open("w", newline="", encoding="utf8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["code", *languages])
        for species in taxonomy:
            names = found.get(species.code, [species.common_name] * len(languages))
            writer.writerow([species.code, *names])

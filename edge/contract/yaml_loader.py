"""YAML as people read it: settings and recipes. Knows no key and no file."""

import re
from collections.abc import Hashable
from typing import Any

import yaml

_SHOWN_MAX = 60
_NOT_DECIMAL = re.compile(
    r"[-+]?(0[0-7_]+|0b[01_]+|0x[0-9a-fA-F_]+|[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?)"
)


class StrictLoader(yaml.SafeLoader):
    """Loader that refuses duplicate keys, of which PyYAML silently takes the last. Raises
    yaml.MarkedYAMLError with the place, also where PyYAML's own constructors fail otherwise."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep=deep)
        # PyYAML's own: 2024-13-45, !!bool x, !!int ""
        except (ValueError, LookupError, AttributeError) as error:
            shown = str(node.value)[:_SHOWN_MAX]
            kind = str(node.tag).rpartition(":")[2]
            problem = f"{shown!r} is not a valid {kind}; put text in quotes"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark) from error

    def mapping(self, node: yaml.MappingNode) -> dict[Any, Any]:
        """A mapping whose keys differ."""
        keys: set[Hashable] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, Hashable):  # construct_mapping refuses the others
                if key in keys:
                    shown = str(key_node.value)[:_SHOWN_MAX]
                    raise yaml.MarkedYAMLError(
                        problem=f"key {shown!r} is given twice", problem_mark=key_node.start_mark
                    )
                keys.add(key)
        return self.construct_mapping(node, deep=True)


class DecimalLoader(StrictLoader):
    """Refuses numbers, too, that YAML 1.1 reads to another base: 010 would be 8, and 1:30 would be
    90."""

    def number(self, node: yaml.ScalarNode) -> int | float:
        """A number as it is written, to the base of ten."""
        text = str(self.construct_scalar(node))
        is_int = node.tag.endswith(":int")
        value = self.construct_yaml_int(node) if is_int else self.construct_yaml_float(node)
        if _NOT_DECIMAL.fullmatch(text):
            problem = (
                f"expected a number in decimal digits, found {text}, which YAML reads as {value}"
            )
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)
        return value


StrictLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, StrictLoader.mapping)
for _kind in ("int", "float"):
    DecimalLoader.add_constructor(f"tag:yaml.org,2002:{_kind}", DecimalLoader.number)

"""YAML as people read it: what PyYAML would take for something else in silence is refused. Knows no
recipe."""

import re
from typing import Any

import yaml

_OTHERWISE = re.compile(
    r"[-+]?(0[0-7_]+|0b[01_]+|0x[0-9a-fA-F_]+|[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?)"
)


class StrictLoader(yaml.SafeLoader):
    """Refuses a key written twice, of which PyYAML takes the second, and numbers that YAML 1.1
    reads to another base: 010 would be 8, and 1:30 would be 90. Raises yaml.YAMLError with the
    place."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key!r} is written twice", node.start_mark
                )
        return super().construct_mapping(node, deep)

    def number(self, node: yaml.ScalarNode) -> int | float:
        """A number as it is written, to the base of ten."""
        text = self.construct_scalar(node)
        value = (
            self.construct_yaml_int(node)
            if node.tag.endswith(":int")
            else self.construct_yaml_float(node)
        )
        if _OTHERWISE.fullmatch(str(text)):
            problem = (
                f"expected a number in decimal digits, found {text}, which YAML reads as {value}"
            )
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
        return value


for _kind in ("int", "float"):
    StrictLoader.add_constructor(f"tag:yaml.org,2002:{_kind}", StrictLoader.number)

"""YAML as `yaml.safe_load` reads it, but a key that is written twice is an error, or the first would be lost."""

from typing import Any

import yaml


class RepeatedKey(yaml.MarkedYAMLError):
    """A mapping holds a key twice; `problem` says where, and `problem_mark` is the second place."""


def load_yaml(text: str) -> Any:
    """The content of a YAML text. yaml.YAMLError where it is not valid, RepeatedKey where a key is written twice."""
    return yaml.load(text, _Loader)


class _Loader(yaml.SafeLoader):
    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """As PyYAML has it. Keys are compared before `<<` is resolved: a key of its own may replace a merged one."""
        node = super().compose_mapping_node(anchor)
        lines: dict[Any, int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == "tag:yaml.org,2002:merge":
                continue
            value = self.construct_object(key)
            line = key.start_mark.line + 1
            if value in lines:
                problem = f"{key.value} is written twice (also line {lines[value]}); keep one"
                raise RepeatedKey(problem=problem, problem_mark=key.start_mark)
            lines[value] = line
        return node

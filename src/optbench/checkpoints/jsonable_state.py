"""Nested state as plain JSON with its tensors set aside by name, and back with its own types.

None, numbers, texts and lists stand for themselves; everything else is an object with one key::

    {"tensor": name}   {"tuple": [...]}   {"dict": {...}}
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

_SCALARS = (bool, int, float, str, type(None))


class NotJsonableError(ValueError):
    """A value that JSON and tensors cannot hold, or JSON that stands for no value."""


def to_jsonable(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """The JSON of a value.

    Args:
        name: of the value, the start of its tensors' names.
        tensors: is given the tensors in it.

    Raises:
        NotJsonableError: something else than tensors, scalars, lists, tuples and dictionaries of
            texts.
    """
    if isinstance(value, Tensor):
        if name in tensors:
            raise NotJsonableError(f"two tensors are called '{name}'.")
        tensors[name] = value
        return {"tensor": name}
    if isinstance(value, _SCALARS):
        return value
    if isinstance(value, list | tuple):
        parts = [to_jsonable(part, f"{name}/{i}", tensors) for i, part in enumerate(value)]
        return parts if isinstance(value, list) else {"tuple": parts}
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        entries = {key: to_jsonable(part, f"{name}/{key}", tensors) for key, part in value.items()}
        return {"dict": entries}
    raise NotJsonableError(
        f"'{name}' is of the type {type(value).__name__}. Tensors, numbers, texts, None, and "
        f"lists, tuples and dictionaries (by text) of these can be kept."
    )


def from_jsonable(plain: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Inverse of :func:`to_jsonable`.

    Raises:
        NotJsonableError: JSON of another form, or a tensor that is not there.
    """
    if isinstance(plain, _SCALARS):
        return plain
    if isinstance(plain, list):
        return [from_jsonable(part, tensors) for part in plain]
    kind, content = _only_item(plain)
    if kind == "tensor":
        if content not in tensors:
            raise NotJsonableError(f"the tensor '{content}' is missing.")
        return tensors[content]
    if kind == "tuple":
        return tuple(from_jsonable(part, tensors) for part in content)
    return {key: from_jsonable(part, tensors) for key, part in content.items()}


def tensor_names(plain: Any) -> Iterator[str]:
    """The names of all tensors in the JSON of a value.

    Raises:
        NotJsonableError: JSON of another form.
    """
    if isinstance(plain, _SCALARS):
        return
    if isinstance(plain, list):
        parts = plain
    else:
        kind, content = _only_item(plain)
        if kind == "tensor":
            yield content
            return
        parts = content if kind == "tuple" else content.values()
    for part in parts:
        yield from tensor_names(part)


def _only_item(plain: Any) -> tuple[str, Any]:
    kinds = {"tensor": str, "tuple": list, "dict": dict}
    if isinstance(plain, dict) and len(plain) == 1:
        ((kind, content),) = plain.items()
        if isinstance(content, kinds.get(kind, ())):
            return kind, content
    raise NotJsonableError(f"{plain!r:.200} stands for no value.")

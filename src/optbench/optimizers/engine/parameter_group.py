"""Parameter groups: a dictionary that also answers to torch's name of the momentum."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

# Keys that a group may hold besides hyperparameters.
GROUP_TAGS = ("params", "param_names", "role", "matrix_layout", "name")
# What torch's schedulers, and this package when it saves, put there.
HELD_BY_TORCH = frozenset(
    {"initial_lr", "max_lr", "min_lr", "max_momentum", "base_momentum", "swa_lr", "method"}
)


class ParameterGroup(dict[str, Any]):
    """Hyperparameters of some parameters, by our names; ``betas`` reads and writes them too.

    ``OneCycleLR`` and ``CyclicLR`` cycle ``momentum``, or else the first of ``betas``. A method
    without a ``momentum`` has ``betas``, the pair (beta1, beta2) or beta1 alone, as a view: it is
    no key of its own, so that groups and checkpoints hold each number once.

    Attributes:
        fixed: the values with which the state of the parameters was made and which it needs.
    """

    fixed: Mapping[str, Any] | None = None

    def _viewed(self, key: object) -> tuple[str, ...]:
        """The keys behind ``betas``; none where it is no view."""
        own = self.keys()
        if key != "betas" or "momentum" in own:
            return ()
        return tuple(name for name in ("beta1", "beta2") if name in own)

    def __contains__(self, key: object) -> bool:
        return super().__contains__(key) or bool(self._viewed(key))

    def __missing__(self, key: str) -> Any:
        names = self._viewed(key)
        if not names:
            raise KeyError(key)
        return tuple(self[name] for name in names)

    def __setitem__(self, key: str, value: Any) -> None:
        names = self._viewed(key)
        if not names:
            super().__setitem__(key, value)
            return
        for name, number in zip(names, value, strict=True):
            super().__setitem__(name, number)

    def fix(self, names: Iterable[str], state: Mapping[Tensor, Any]) -> None:
        """Keep the values of these options from the first state on.

        Args:
            names: options on which the layout or the meaning of the state depends.
            state: of the optimizer.

        Raises:
            ValueError: one was changed after a parameter of this group had got a state.
        """
        now = {name: self.get(name) for name in names}
        if now == self.fixed:
            return
        if self.fixed is not None and any(state.get(param) for param in self["params"]):
            changes = [
                f"`{name}` of a parameter group was changed from {self.fixed.get(name)!r} to "
                f"{value!r}"
                for name, value in now.items()
                if value != self.fixed.get(name)
            ]
            raise ValueError(
                f"{', and '.join(changes)}, but the state of its parameters was made before and "
                f"depends on it. Set it back, or build a new optimizer, whose state starts anew."
            )
        self.fixed = now

"""Put the weights of a checkpoint into the module that they belong to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from edgec.errors import UserError
from edgec.frontends.user_code import import_object

_WRAPPERS = (
    "state_dict",
    "model_state_dict",
    "model",
    "net",
    "network",
    "weights",
    "ema",
)  # keys under which trainers keep weights
_SHOWN = 6  # names in one message


def find_state_dict(saved: Any, where: str) -> dict[str, torch.Tensor]:
    """The mapping from parameter name to tensor in what torch.load returned, without wrappers and DataParallel prefix.

    Raises UserError: there is none.
    """
    found = saved
    if isinstance(found, Mapping) and not _is_state(found):
        inner = [found[k] for k in _WRAPPERS if isinstance(found.get(k), Mapping) and _is_state(found[k])]
        inner = inner or [v for v in found.values() if isinstance(v, Mapping) and _is_state(v)]
        found = inner[0] if inner else None
    if not isinstance(found, Mapping) or not _is_state(found):
        what = (
            f"a {type(saved).__name__}"
            if not isinstance(saved, Mapping)
            else f"a dict with the keys {sorted(map(str, saved))[:_SHOWN]}"
        )
        raise UserError(
            f"the file holds {what}, not a module or weights",
            where=where,
            expected="an nn.Module or a state dict",
            hint="save the weights with torch.save(module.state_dict(), path)",
        )
    if all(k.startswith("module.") for k in found):
        found = {k[len("module.") :]: v for k, v in found.items()}
    return dict(found)


def _is_state(saved: Mapping[Any, Any]) -> bool:
    return bool(saved) and all(isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in saved.items())


def build_module(factory: str, state: Mapping[str, torch.Tensor], where: str) -> torch.nn.Module:
    """The module that `package.module:function` returns, with the weights of `state`.

    Raises UserError: the factory cannot be imported or called, returns no module, or its parameters are not those
        of the file: the message lists missing, unexpected and misshapen ones.
    """
    module = _call(factory)
    own = module.state_dict()
    missing = [k for k in own if k not in state and not k.endswith("num_batches_tracked")]
    unexpected = [k for k in state if k not in own and not k.endswith("num_batches_tracked")]
    misshapen = [
        f"{k} {list(state[k].shape)} instead of {list(own[k].shape)}"
        for k in own
        if k in state and state[k].shape != own[k].shape
    ]
    problems = [
        f"{len(names)} {what}: " + ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
        for what, names in (
            ("missing in the file", missing),
            ("unknown to the module", unexpected),
            ("of another shape", misshapen),
        )
        if names
    ]
    if problems:
        raise UserError(
            f"the weights do not fit the module of {factory}: " + "; ".join(problems),
            where=where,
            expected="the module that the weights were trained in",
            hint="check the factory and its arguments",
        )
    module.load_state_dict(dict(state), strict=False)
    return module


def _call(factory: str) -> torch.nn.Module:
    target = import_object(factory)
    try:
        module = target()
    except Exception as error:  # the user's own code runs here
        raise UserError(
            f"{factory} fails: {type(error).__name__}: {error}",
            where=factory,
            hint="give a function that needs no arguments",
        ) from error
    if not isinstance(module, torch.nn.Module):
        raise UserError(f"{factory} returns a {type(module).__name__}", where=factory, expected="a torch.nn.Module")
    return module

"""The rope part of a config.json, in its two spellings."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, cast

from r1mega.models.config_json import ConfigJson
from r1mega.models.spec import Rope, RopeKind
from r1mega.types import UserError

# What each kind says besides its name and theta. Any other key would change the wavelengths behind our back.
_STRETCH = {"factor", "original_max_position_embeddings"}
_KEYS: dict[RopeKind, set[str]] = {
    "default": set(),
    "llama3": _STRETCH | {"low_freq_factor", "high_freq_factor"},
    "yarn": _STRETCH | {"beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate"},
}


def read_rope(config: ConfigJson, kinds: Collection[RopeKind]) -> Rope:
    """The rope of a config; `kinds` are those that the family builds.

    Old files have `rope_theta` and `rope_scaling` (its kind in `type` or `rope_type`), those of transformers
    5 have all of it in `rope_parameters`. Raises UserError for other kinds, missing or unknown keys.
    """
    config.only("partial_rotary_factor", [1])
    values = _one_spelling(config)
    rope = ConfigJson(values, f"{config.where}: rope")
    if values.get("rope_type", "default") not in kinds:
        raise rope.error("rope_type", " or ".join(f'"{kind}"' for kind in kinds))
    kind = cast(RopeKind, values.get("rope_type", "default"))
    for key in values:
        if key not in _KEYS[kind] | {"rope_type", "rope_theta"}:
            allowed = ", ".join(sorted(_KEYS[kind])) or "no keys but rope_theta"
            raise UserError(f'{rope.where}: {key} is not built for rope_type "{kind}"; allowed: {allowed}')
    theta = rope.number("rope_theta", Rope.theta)
    if kind == "default":
        return Rope(theta=theta)
    factor, original = rope.number("factor"), rope.integer("original_max_position_embeddings")
    if kind == "llama3":
        low, high = rope.number("low_freq_factor"), rope.number("high_freq_factor")
        if low >= high:
            raise rope.error("low_freq_factor", f"a number below high_freq_factor, {high:g}")
        return Rope(kind, theta, factor, original, low_freq_factor=low, high_freq_factor=high)
    _check_yarn(rope)
    return Rope(
        kind,
        theta,
        factor,
        original,
        beta_fast=rope.number("beta_fast", Rope.beta_fast),
        beta_slow=rope.number("beta_slow", Rope.beta_slow),
        mscale=rope.number("mscale", Rope.mscale),
        mscale_all_dim=rope.number("mscale_all_dim", Rope.mscale_all_dim),
    )


def _one_spelling(config: ConfigJson) -> dict[str, Any]:
    """Both spellings as that of transformers 5, without what says nothing: null, and 0 for yarn's mscales."""
    values: dict[str, Any] = {}
    for key in ("rope_parameters", "rope_scaling"):
        said = config.values.get(key) or {}
        if not isinstance(said, dict):
            raise config.error(key, "an object or null")
        values |= said
    if "type" in values:
        kind = values.pop("type")
        if values.setdefault("rope_type", kind) != kind:
            raise UserError(
                f'{config.where}: rope is of type "{kind}" and of rope_type "{values["rope_type"]}"'
            )
    values.setdefault("rope_theta", config.values.get("rope_theta"))
    return {key: v for key, v in values.items() if v is not None and (v != 0 or "mscale" not in key)}


def _check_yarn(rope: ConfigJson) -> None:
    """Refuse what transformers and Megatron-Core compute differently."""
    rope.only("truncate", [True])
    mscale, all_dim = rope.values.get("mscale"), rope.values.get("mscale_all_dim")
    if mscale not in (None, 1) if all_dim is None else mscale is None:
        said = f"mscale {mscale} and mscale_all_dim {all_dim}"
        raise UserError(f"{rope.where}: yarn has {said}; allowed are both or neither")

"""Rotary embeddings as a config.json spells them: `rope_parameters`, or before it `rope_scaling` and `rope_theta`."""

import math
from collections.abc import Callable

from pavane.kernels.rope import RopeParameters
from pavane.models.errors import ModelError
from pavane.models.fields import Fields


def rope_from_config(config: Fields, max_position: int) -> RopeParameters:
    """Missing fields mean what they mean to transformers.

    Args:
        max_position: the config's max_position_embeddings.

    Raises:
        ModelError: frequencies that depend on the sequence or the layer, partial rotary, a field that is not known.
    """
    sections = {key: value for key in ("rope_scaling", "rope_parameters") if (value := config.get(key))}
    if len(sections) == 2 and sections["rope_scaling"] != sections["rope_parameters"]:
        raise ModelError(
            f"{config.name('rope_scaling')} and rope_parameters are both there and differ; remove the one that is wrong"
        )
    key, section = next(iter(sections.items()), ("rope_parameters", {}))
    if not isinstance(section, dict):
        raise config.refuse(key, "only an object; download the file again")
    fields = Fields(section, config.name(f"{key}."))
    for place in (config, fields):
        if place.get("partial_rotary_factor") not in (None, 1, 1.0):
            raise place.refuse("partial_rotary_factor", "only 1.0 (every dimension of a head is rotated)")
    theta = fields.positive_float("rope_theta", default=config.positive_float("rope_theta", default=10000.0))
    kind_key = "rope_type" if fields.get("rope_type") is not None or fields.get("type") is None else "type"
    kind = fields.get(kind_key) or "default"
    read = _TYPES.get(kind) if isinstance(kind, str) else None
    if read is None:
        raise fields.refuse(
            kind_key, f"only {', '.join(_TYPES)} (frequencies that do not depend on the sequence); choose another model"
        )
    # Some configs give it beside the section, and it wins.
    original = fields.positive_int("original_max_position_embeddings", default=max_position)
    original = config.positive_int("original_max_position_embeddings", default=original)
    rope = read(fields, theta, original, max_position)
    for unknown in fields.unread():
        if unknown != "finetuned":
            raise fields.refuse(unknown, f"with rope_type {kind!r}; choose a model without it")
    return rope


def _default(fields: Fields, theta: float, original: int, max_position: int) -> RopeParameters:
    return RopeParameters(theta)


def _linear(fields: Fields, theta: float, original: int, max_position: int) -> RopeParameters:
    return RopeParameters(theta, "linear", factor=_factor(fields))


def _llama3(fields: Fields, theta: float, original: int, max_position: int) -> RopeParameters:
    low, high = fields.positive_float("low_freq_factor"), fields.positive_float("high_freq_factor")
    if high <= low:
        raise fields.refuse("high_freq_factor", f"only more than low_freq_factor = {low}; download the file again")
    return RopeParameters(
        theta,
        "llama3",
        factor=_factor(fields),
        original_max_position=original,
        low_freq_factor=low,
        high_freq_factor=high,
    )


def _yarn(fields: Fields, theta: float, original: int, max_position: int) -> RopeParameters:
    if theta <= 1.0:
        raise fields.refuse("rope_theta", "only more than 1 with YaRN; download the file again")
    factor = _factor(fields, default=max_position / original)
    mscale, all_dim = fields.get("mscale"), fields.get("mscale_all_dim")
    by_default = _yarn_attention(factor, 1.0)
    if mscale and all_dim:
        by_default = _yarn_attention(factor, fields.positive_float("mscale"))
        by_default /= _yarn_attention(factor, fields.positive_float("mscale_all_dim"))
    return RopeParameters(
        theta,
        "yarn",
        factor=factor,
        original_max_position=original,
        beta_fast=fields.positive_float("beta_fast", default=32.0),
        beta_slow=fields.positive_float("beta_slow", default=1.0),
        truncate=fields.flag("truncate", default=True),
        attention_factor=fields.positive_float("attention_factor", default=by_default),
    )


def _yarn_attention(factor: float, mscale: float) -> float:
    """Peng et al. 2023, section 3.4, with DeepSeek's `mscale`."""
    return 1.0 + 0.1 * mscale * math.log(factor)


def _factor(fields: Fields, default: float | None = None) -> float:
    factor = fields.positive_float("factor", default)
    if factor < 1.0:
        raise fields.refuse("factor", "only 1.0 or more; choose a model whose context is not shortened")
    return factor


_TYPES: dict[str, Callable[[Fields, float, int, int], RopeParameters]] = {
    "default": _default,
    "linear": _linear,
    "llama3": _llama3,
    "yarn": _yarn,
}

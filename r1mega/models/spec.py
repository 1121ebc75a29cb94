"""What a Hugging Face config.json says about a model, as plain facts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from r1mega.models.config_json import ConfigJson, read_config
from r1mega.models.fp8 import without_quantisation

RopeKind = Literal["default", "llama3", "yarn"]


@dataclass(frozen=True)
class Rope:
    """Rotary position embedding. What the kind does not use keeps its default.

    theta:                    the base of the wavelengths.
    factor:                   by how much the context is stretched (llama3, yarn).
    original_max_positions:   the context before stretching, in tokens (llama3, yarn).
    low_freq_factor, high_freq_factor:  llama3's band of partly stretched wavelengths.
    beta_fast, beta_slow:     yarn's band, in turns over the original context.
    mscale, mscale_all_dim:   yarn's attention temperature.
    """

    kind: RopeKind = "default"
    theta: float = 10000.0
    factor: float = 1.0
    original_max_positions: int = 0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    mscale: float = 1.0
    mscale_all_dim: float = 0.0


@dataclass(frozen=True)
class MLA:
    """Multi-latent attention: the ranks of its two low-rank paths and the sizes of a head's parts.

    q_lora:  rank of the query path, None where queries are projected at once.
    kv_lora: rank of the shared key and value path.
    nope, rope: sizes of a query or key head's part without and with rotary positions.
    v:       size of a value head.
    """

    q_lora: int | None
    kv_lora: int
    nope: int
    rope: int
    v: int


@dataclass(frozen=True)
class MoE:
    """Mixture of experts with sigmoid scores and a bias for the choice (arXiv 2412.19437, section 2.1.2).

    experts, topk:        routed experts a layer, and how many of them a token uses.
    groups, topk_groups:  experts lie in equal groups; a token chooses among the best groups only.
    ffn:                  inner size of one expert.
    shared_experts:       experts every token uses, fused into one of size ffn * shared_experts.
    first_dense:          so many first layers have an ordinary MLP.
    scale, norm_topk:     the chosen scores are normalised to sum 1 (norm_topk), then multiplied by `scale`.
    """

    experts: int
    topk: int
    groups: int
    topk_groups: int
    ffn: int
    shared_experts: int
    first_dense: int
    scale: float
    norm_topk: bool


@dataclass(frozen=True)
class ModelSpec:
    """One decoder-only language model. Sizes are numbers of features, heads, layers or tokens.

    family:     Hugging Face's model_type, a key of `families.FAMILIES`.
    ffn:        inner size of an ordinary (not expert) MLP.
    head_dim:   size of a query and key head; with MLA nope + rope.
    tied:       the output layer is the embedding.
    mtp_layers: multi-token-prediction modules behind the last layer.
    scalar:     it ends with one value a token, not with logits: a reward model (see reward_head.py).
    hf:         the config as it was read, for export.
    """

    family: str
    hidden: int
    layers: int
    vocab: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    rms_eps: float
    tied: bool
    qkv_bias: bool
    max_positions: int
    rope: Rope
    mla: MLA | None = None
    moe: MoE | None = None
    mtp_layers: int = 0
    scalar: bool = False
    hf: Mapping[str, Any] = field(default_factory=dict, hash=False, repr=False)

    @property
    def moe_layers(self) -> range:
        return range(self.moe.first_dense, self.layers) if self.moe else range(0)


def load_spec(source: str | Path | Mapping[str, Any]) -> ModelSpec:
    """Read a model's facts from its folder, its config.json or the parsed content of one.

    Raises UserError for an unknown architecture, a missing or impossible value, or a feature that would be
    computed wrongly, naming key, value and what is allowed.
    """
    # Here and not above, since the families are written in terms of this module.
    from r1mega.models.families import FAMILIES

    config = ConfigJson(source, "config") if isinstance(source, Mapping) else read_config(Path(source))
    config = without_quantisation(config)  # weights are dequantised where they are read (models/hf.py)
    model_type = config.text("model_type")
    if model_type not in FAMILIES:
        raise config.error("model_type", f"one of {', '.join(sorted(FAMILIES))}")
    family = FAMILIES[model_type]
    config.only("architectures", [[family.architecture]])
    return family.read(config)

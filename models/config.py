"""The hyperparameters of a model."""

from dataclasses import dataclass

from pavane.kernels.rope import RopeParameters

# Why the families Gemma 2 and 3 are refused, in the words of an error.
GEMMA_LACKS = (
    "what is missing: soft caps of attention scores and logits, windows and RoPE that differ by layer; choose a model "
    "of the Llama, Mistral or Qwen families"
)


@dataclass(frozen=True)
class ModelConfig:
    """A decoder with RMSNorm, rotary embeddings (rotate-half layout), grouped-query attention and a SwiGLU MLP.

    Attributes:
        max_position: positions that the model was trained or extended for, in tokens.
        tie_word_embeddings: the output projection is the embedding matrix.
        qkv_bias: biases are added to the projections of q, k and v.
        qk_norm: q and k are normalised per head before they are rotated, with one weight [head_dim] each.
        window: the smallest sliding window of any layer, in tokens including a token's own; None: every layer sees all.
            The forward pass has no windows: positions served must not exceed it.
    """

    architecture: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rms_norm_eps: float
    rope: RopeParameters
    max_position: int
    tie_word_embeddings: bool
    qkv_bias: bool
    qk_norm: bool
    window: int | None

    @property
    def flops_per_row(self) -> int:
        """Operations of one token's products with the weights of all layers; the output projection is left out."""
        query, kv = self.num_heads * self.head_dim, 2 * self.num_kv_heads * self.head_dim
        attention = self.hidden_size * (2 * query + kv)
        return 2 * self.num_layers * (attention + 3 * self.hidden_size * self.intermediate_size)

    @property
    def flops_per_key(self) -> int:
        """Operations of one token's attention to one key: its score and its value, in all heads and layers."""
        return 4 * self.num_layers * self.num_heads * self.head_dim


@dataclass(frozen=True)
class Window:
    """A sliding window of `size` tokens, and the field, its value and the layers that `source` names."""

    size: int
    source: str


def layer_weight_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """The weights of one layer by their names without "layers.N."; matrices as (out, in)."""
    hidden, inner, dim = config.hidden_size, config.intermediate_size, config.head_dim
    q_size, kv_size = config.num_heads * dim, config.num_kv_heads * dim
    shapes: dict[str, tuple[int, ...]] = {
        "input_layernorm.weight": (hidden,),
        "self_attn.q_proj.weight": (q_size, hidden),
        "self_attn.k_proj.weight": (kv_size, hidden),
        "self_attn.v_proj.weight": (kv_size, hidden),
        "self_attn.o_proj.weight": (hidden, q_size),
        "post_attention_layernorm.weight": (hidden,),
        "mlp.gate_proj.weight": (inner, hidden),
        "mlp.up_proj.weight": (inner, hidden),
        "mlp.down_proj.weight": (hidden, inner),
    }
    if config.qkv_bias:
        shapes |= {
            "self_attn.q_proj.bias": (q_size,),
            "self_attn.k_proj.bias": (kv_size,),
            "self_attn.v_proj.bias": (kv_size,),
        }
    if config.qk_norm:
        shapes |= {"self_attn.q_norm.weight": (dim,), "self_attn.k_norm.weight": (dim,)}
    return shapes


def weight_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """All weights of a model: Hugging Face's names without the "model." prefix, matrices as (out, in)."""
    shapes: dict[str, tuple[int, ...]] = {
        "embed_tokens.weight": (config.vocab_size, config.hidden_size),
        "norm.weight": (config.hidden_size,),
    }
    if not config.tie_word_embeddings:
        shapes["lm_head.weight"] = (config.vocab_size, config.hidden_size)
    block = layer_weight_shapes(config)
    for i in range(config.num_layers):
        shapes |= {f"layers.{i}.{name}": shape for name, shape in block.items()}
    return shapes

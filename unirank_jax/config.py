"""Shapes and constants of the network, as frozen dataclasses.

`ModelConfig.from_hf` reads the `config.json` of a Qwen3-VL folder in its older and newer spellings,
`ModelConfig.to_hf` writes it back, and `preset` gives the shapes we know by name. No JAX here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any


class ConfigError(ValueError):
    """A model configuration that this package cannot honour; the message lists every problem."""


@dataclass(frozen=True)
class VisionConfig:
    """The vision tower. One visual token covers (merge_size * patch_size)^2 pixels."""

    depth: int
    width: int
    mlp_width: int
    heads: int
    patch_size: int
    merge_size: int
    temporal_patch_size: int
    table_size: int  # learned positions, a square grid
    out_width: int
    deepstack_layers: tuple[int, ...]
    rope_theta: float = 10000.0
    norm_eps: float = 1e-6
    channels: int = 3

    @property
    def head_dim(self) -> int:
        return self.width // self.heads

    @property
    def patch_dim(self) -> int:
        """Length of one patch vector of a still frame: (channel, y, x)."""
        return self.channels * self.patch_size * self.patch_size

    @property
    def merge_unit(self) -> int:
        """Patches per visual token."""
        return self.merge_size * self.merge_size

    @property
    def stage_depths(self) -> tuple[int, ...]:
        """Blocks per stage: the tower is cut after each DeepStack layer (the last may be 0)."""
        edges = [0, *(layer + 1 for layer in self.deepstack_layers), self.depth]
        return tuple(b - a for a, b in zip(edges, edges[1:], strict=False))


@dataclass(frozen=True)
class TextConfig:
    """The decoder. `rope_sections` are the (time, height, width) shares of head_dim / 2."""

    vocabulary: int
    width: int
    depth: int
    mlp_width: int
    heads: int
    kv_heads: int
    head_dim: int
    rope_theta: float
    rope_sections: tuple[int, int, int]
    norm_eps: float
    tied: bool
    max_positions: int


@dataclass(frozen=True)
class ModelConfig:
    """A Qwen3-VL network: tower, decoder and the ids of its image tokens."""

    text: TextConfig
    vision: VisionConfig
    image_token_id: int
    video_token_id: int
    vision_start_id: int
    vision_end_id: int

    @property
    def text_stage_depths(self) -> tuple[int, ...]:
        """Decoder layers per stage (some may be 0): those that receive DeepStack features, the
        rest, and the last layer alone, which often runs for one token of a row only."""
        before = self.text.depth - 1
        n = min(len(self.vision.deepstack_layers), before)
        return (n, before - n, 1)

    def __post_init__(self) -> None:
        problems = _problems(self)
        if problems:
            raise ConfigError("model configuration: " + "; ".join(problems))

    @staticmethod
    def from_hf(raw: dict[str, Any]) -> ModelConfig:
        """Read a Hugging Face `config.json` of model type `qwen3_vl`.

        Accepts `rope_theta` + `rope_scaling` (older) and `rope_parameters` (newer), and
        `tie_word_embeddings` at the top or in `text_config`.

        Raises:
            ConfigError: unknown model type, missing field, or an option we do not implement.
        """
        if raw.get("model_type") != "qwen3_vl":
            raise ConfigError(
                f"config.json: model_type is {raw.get('model_type')!r}; "
                "only 'qwen3_vl' can be loaded, choose a Qwen3-VL or Qwen3-VL-Reranker folder"
            )
        try:
            return _read(raw)
        except KeyError as missing:
            raise ConfigError(
                f"config.json: field {missing.args[0]!r} is missing; "
                "copy the complete config.json of the published model"
            ) from None

    def to_hf(self) -> dict[str, Any]:
        """The `config.json` that transformers 5 reads (`rope_parameters` and older keys both)."""
        text, vision = self.text, self.vision
        rope = {
            "rope_type": "default",
            "rope_theta": text.rope_theta,
            "mrope_section": list(text.rope_sections),
            "mrope_interleaved": True,
        }
        return {
            "architectures": ["Qwen3VLForConditionalGeneration"],
            "model_type": "qwen3_vl",
            "image_token_id": self.image_token_id,
            "video_token_id": self.video_token_id,
            "vision_start_token_id": self.vision_start_id,
            "vision_end_token_id": self.vision_end_id,
            "tie_word_embeddings": text.tied,
            "text_config": {
                "model_type": "qwen3_vl_text",
                "vocab_size": text.vocabulary,
                "hidden_size": text.width,
                "intermediate_size": text.mlp_width,
                "num_hidden_layers": text.depth,
                "num_attention_heads": text.heads,
                "num_key_value_heads": text.kv_heads,
                "head_dim": text.head_dim,
                "hidden_act": "silu",
                "max_position_embeddings": text.max_positions,
                "rms_norm_eps": text.norm_eps,
                "attention_bias": False,
                "tie_word_embeddings": text.tied,
                "rope_theta": text.rope_theta,
                "rope_parameters": rope,
            },
            "vision_config": {
                "model_type": "qwen3_vl",
                "depth": vision.depth,
                "hidden_size": vision.width,
                "intermediate_size": vision.mlp_width,
                "num_heads": vision.heads,
                "hidden_act": "gelu_pytorch_tanh",
                "in_channels": vision.channels,
                "patch_size": vision.patch_size,
                "spatial_merge_size": vision.merge_size,
                "temporal_patch_size": vision.temporal_patch_size,
                "out_hidden_size": vision.out_width,
                "num_position_embeddings": vision.table_size,
                "deepstack_visual_indexes": list(vision.deepstack_layers),
                "rope_parameters": {"rope_type": "axial", "rope_theta": vision.rope_theta},
            },
        }


def _read(raw: dict[str, Any]) -> ModelConfig:
    text, vision = raw["text_config"], raw["vision_config"]
    rope = text.get("rope_parameters") or text.get("rope_scaling") or {}
    unsupported = [
        f"{field} = {found!r} is not supported (only {wanted!r})"
        for field, found, wanted in (
            ("text_config.hidden_act", text.get("hidden_act", "silu"), "silu"),
            ("text_config.attention_bias", text.get("attention_bias", False), False),
            (
                "text_config.rope type",
                rope.get("rope_type", rope.get("type", "default")),
                "default",
            ),
            ("text_config.mrope_interleaved", rope.get("mrope_interleaved", True), True),
            (
                "vision_config.hidden_act",
                vision.get("hidden_act", "gelu_pytorch_tanh"),
                "gelu_pytorch_tanh",
            ),
        )
        if found != wanted and not (field.endswith("rope type") and found == "mrope")
    ]
    if unsupported:
        raise ConfigError("config.json: " + "; ".join(unsupported))
    theta = rope.get("rope_theta", text.get("rope_theta"))
    if theta is None:
        raise KeyError("text_config.rope_theta")
    if "mrope_section" not in rope:
        raise KeyError("text_config.rope_parameters.mrope_section")
    tied = raw.get("tie_word_embeddings", text.get("tie_word_embeddings", False))
    heads = text["num_attention_heads"]
    return ModelConfig(
        text=TextConfig(
            vocabulary=text["vocab_size"],
            width=text["hidden_size"],
            depth=text["num_hidden_layers"],
            mlp_width=text["intermediate_size"],
            heads=heads,
            kv_heads=text.get("num_key_value_heads") or heads,
            head_dim=text.get("head_dim") or text["hidden_size"] // heads,
            rope_theta=float(theta),
            rope_sections=tuple(rope["mrope_section"]),
            norm_eps=text["rms_norm_eps"],
            tied=bool(tied),
            max_positions=text["max_position_embeddings"],
        ),
        vision=VisionConfig(
            depth=vision["depth"],
            width=vision["hidden_size"],
            mlp_width=vision["intermediate_size"],
            heads=vision["num_heads"],
            patch_size=vision["patch_size"],
            merge_size=vision["spatial_merge_size"],
            temporal_patch_size=vision["temporal_patch_size"],
            table_size=vision["num_position_embeddings"],
            out_width=vision["out_hidden_size"],
            deepstack_layers=tuple(vision["deepstack_visual_indexes"]),
            rope_theta=float((vision.get("rope_parameters") or {}).get("rope_theta", 10000.0)),
            channels=vision.get("in_channels", 3),
        ),
        image_token_id=raw["image_token_id"],
        video_token_id=raw["video_token_id"],
        vision_start_id=raw["vision_start_token_id"],
        vision_end_id=raw["vision_end_token_id"],
    )


def _problems(config: ModelConfig) -> list[str]:
    text, vision = config.text, config.vision
    layers = vision.deepstack_layers
    checks = (
        (sum(text.rope_sections) == text.head_dim // 2, "rope_sections must sum to head_dim / 2"),
        (
            all(a + 3 * (text.rope_sections[a] - 1) < text.head_dim // 2 for a in (1, 2)),
            "rope_sections do not interleave within head_dim / 2 (height and width would be cut)",
        ),
        (text.heads % text.kv_heads == 0, "text heads must be a multiple of kv_heads"),
        (vision.width % vision.heads == 0, "vision width must be a multiple of its heads"),
        (vision.head_dim % 4 == 0, "vision head_dim must be a multiple of 4"),
        (vision.out_width == text.width, "vision out_width must equal the decoder width"),
        (round(vision.table_size**0.5) ** 2 == vision.table_size, "table_size must be a square"),
        (list(layers) == sorted(set(layers)), "deepstack_layers must rise"),
        (all(0 <= i < vision.depth for i in layers), "deepstack_layers must lie in the tower"),
        (len(layers) <= text.depth, "more DeepStack layers than decoder layers"),
    )
    return [message for ok, message in checks if not ok]


def _published(
    width: int, mlp_width: int, depth: int, heads: int, tied: bool, tower: dict[str, Any]
) -> ModelConfig:
    return ModelConfig(
        text=TextConfig(
            vocabulary=151936,
            width=width,
            depth=depth,
            mlp_width=mlp_width,
            heads=heads,
            kv_heads=8,
            head_dim=128,
            rope_theta=5_000_000.0,
            rope_sections=(24, 20, 20),
            norm_eps=1e-6,
            tied=tied,
            max_positions=262144,
        ),
        vision=VisionConfig(
            patch_size=16,
            merge_size=2,
            temporal_patch_size=2,
            table_size=2304,
            out_width=width,
            heads=16,
            **tower,
        ),
        image_token_id=151655,
        video_token_id=151656,
        vision_start_id=151652,
        vision_end_id=151653,
    )


_TOWER_300M = {"depth": 24, "width": 1024, "mlp_width": 4096, "deepstack_layers": (5, 11, 17)}
_TOWER_400M = {"depth": 27, "width": 1152, "mlp_width": 4304, "deepstack_layers": (8, 16, 24)}


def _tiny() -> ModelConfig:
    """The shipped try-out size: trained from scratch, so sized for a CPU."""
    return ModelConfig(
        text=TextConfig(
            vocabulary=2048,
            width=128,
            depth=4,
            mlp_width=384,
            heads=4,
            kv_heads=4,
            head_dim=32,
            rope_theta=10000.0,
            rope_sections=(6, 5, 5),
            norm_eps=1e-6,
            tied=True,
            max_positions=4096,
        ),
        vision=VisionConfig(
            depth=4,
            width=128,
            mlp_width=384,
            heads=4,
            patch_size=12,
            merge_size=2,
            temporal_patch_size=2,
            table_size=64,
            out_width=128,
            deepstack_layers=(1, 2),
        ),
        # The ids of the tiny tokenizer: its special tokens follow the base vocabulary.
        image_token_id=2034,
        video_token_id=2035,
        vision_start_id=2031,
        vision_end_id=2032,
    )


def _small() -> ModelConfig:
    """A size for two domains from scratch: in heads of 64 equal words find each other sooner, and
    16,384 tokens spell most of the words that ask for drawings in one piece or two."""
    tiny = _tiny()
    first_special = 16384 - 26
    return replace(
        tiny,
        text=replace(
            tiny.text,
            vocabulary=16384,
            head_dim=64,
            rope_theta=1_000_000.0,
            rope_sections=(12, 10, 10),
        ),
        image_token_id=first_special + 12,
        video_token_id=first_special + 13,
        vision_start_id=first_special + 9,
        vision_end_id=first_special + 10,
    )


PRESETS = {
    "tiny": _tiny,
    "small": _small,
    "2b": lambda: _published(2048, 6144, 28, 16, True, _TOWER_300M),
    "4b": lambda: _published(2560, 9728, 36, 32, True, _TOWER_300M),
    "8b": lambda: _published(4096, 12288, 36, 32, False, _TOWER_400M),
}


def preset(name: str) -> ModelConfig:
    """A known shape: `tiny` (ours) or the published `2b`, `4b`, `8b` (Qwen3-VL configs)."""
    if name not in PRESETS:
        raise ConfigError(f"preset {name!r} is unknown; choose one of {', '.join(PRESETS)}")
    return PRESETS[name]()

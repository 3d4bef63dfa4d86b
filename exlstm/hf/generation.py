"""What `generate` must know of a memory of one size."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import Cache, GenerationMixin

from exlstm.hf.cache import ExlstmCache
from exlstm.shapes import Float, Int


class ExlstmGenerationMixin(GenerationMixin):
    """transformers' generation with an `ExlstmCache`."""

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        # transformers says no for every class with "xlstm" in its name; it means its own.
        return True

    def _prepare_cache_for_generation(
        self, generation_config: Any, model_kwargs: dict[str, Any], *args: Any, **kwargs: Any
    ) -> Any:
        if model_kwargs.get("past_key_values") is not None:
            parent: Any = super()
            return parent._prepare_cache_for_generation(
                generation_config, model_kwargs, *args, **kwargs
            )
        kind = generation_config.cache_implementation
        if kind not in (None, "dynamic", "static"):
            raise ValueError(
                f"cache_implementation={kind!r} makes room for a cache that grows, and this one "
                "does not: it may be 'dynamic', 'static' or None"
            )
        if generation_config.use_cache:
            model_kwargs["past_key_values"] = ExlstmCache(static=kind == "static")
        return None

    def prepare_inputs_for_generation(
        self,
        input_ids: Int[Tensor, "B T"],
        next_sequence_length: int | None = None,
        past_key_values: Cache | None = None,
        attention_mask: Int[Tensor, "B T"] | None = None,
        inputs_embeds: Float[Tensor, "B T D"] | None = None,
        is_first_iteration: bool | None = False,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Choose what `forward` is called with: a token just generated needs no mask."""
        if next_sequence_length == 1 and past_key_values is not None and not is_first_iteration:
            attention_mask = None
        parent: Any = super()
        return parent.prepare_inputs_for_generation(
            input_ids,
            next_sequence_length=next_sequence_length,
            past_key_values=past_key_values,
            attention_mask=attention_mask,
            inputs_embeds=inputs_embeds,
            is_first_iteration=is_first_iteration,
            **kwargs,
        )

    @staticmethod
    def create_masks_for_generate(attention_mask: Tensor | None, **_: Any) -> Tensor | None:
        """The mask as it is, which is what `forward` takes."""
        return attention_mask

"""Classes for whole rows and for tokens, on the stack of the language model."""

from __future__ import annotations

from torch import Tensor
from transformers.modeling_outputs import SequenceClassifierOutputWithPast, TokenClassifierOutput
from transformers.utils.generic import can_return_tuple

from exlstm.hf.base import ExlstmPreTrainedModel
from exlstm.hf.cache import ExlstmCache
from exlstm.hf.configuration import ExlstmConfig
from exlstm.nn import init
from exlstm.nn.layers import Linear
from exlstm.shapes import Float, Int


class ExlstmForSequenceClassification(ExlstmPreTrainedModel):
    """A class for each row, read after its last real token: `AutoModelForSequenceClassification`.

    Example:
        >>> import torch
        >>> config = ExlstmConfig(vocab_size=257, d_model=32, pattern="ms", num_labels=3)
        >>> ExlstmForSequenceClassification(config)(torch.tensor([[72, 101, 108]])).logits.shape
        torch.Size([1, 3])
    """

    def __init__(self, config: ExlstmConfig) -> None:
        super().__init__(config)
        self.score = _score(config)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Int[Tensor, "B T"] | None = None,
        attention_mask: Tensor | None = None,
        past_key_values: ExlstmCache | None = None,
        inputs_embeds: Float[Tensor, "B T D"] | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
    ) -> SequenceClassifierOutputWithPast:
        """The logits of the classes, (B, labels); `labels` is one a row.

        The other arguments are those of `ExlstmForCausalLM.forward`.
        """
        run = self.run(
            input_ids, inputs_embeds, attention_mask, past_key_values, None,
            use_cache, output_hidden_states, output_attentions,
        )  # fmt: skip
        logits = self.score(run.last).float()
        loss = None
        if labels is not None:
            loss = self.loss_function(labels=labels, pooled_logits=logits, config=self.config)
        return SequenceClassifierOutputWithPast(
            loss=loss, logits=logits, past_key_values=run.cache, hidden_states=run.hidden_states
        )


class ExlstmForTokenClassification(ExlstmPreTrainedModel):
    """A class for each token, which sees those before it: `AutoModelForTokenClassification`.

    Example:
        >>> import torch
        >>> config = ExlstmConfig(vocab_size=257, d_model=32, pattern="ms", num_labels=3)
        >>> ExlstmForTokenClassification(config)(torch.tensor([[72, 101, 108]])).logits.shape
        torch.Size([1, 3, 3])
    """

    def __init__(self, config: ExlstmConfig) -> None:
        super().__init__(config)
        self.score = _score(config)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Int[Tensor, "B T"] | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Float[Tensor, "B T D"] | None = None,
        labels: Int[Tensor, "B T"] | None = None,
        seq_idx: Int[Tensor, "B T"] | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
    ) -> TokenClassifierOutput:
        """The logits of the classes, (B, T, labels); `labels` is one a token, -100 for none.

        The other arguments are those of `ExlstmForCausalLM.forward`.
        """
        run = self.run(
            input_ids, inputs_embeds, attention_mask, None, seq_idx,
            False, output_hidden_states, output_attentions,
        )  # fmt: skip
        logits = self.score(run.hidden).float()
        loss = None if labels is None else self.loss_function(logits, labels, self.config)
        return TokenClassifierOutput(loss=loss, logits=logits, hidden_states=run.hidden_states)


def _score(config: ExlstmConfig) -> Linear:
    assert config.num_labels is not None
    score = Linear(config.d_model, config.num_labels, bias=False)
    init.small_(score.weight, config.d_model)
    return score

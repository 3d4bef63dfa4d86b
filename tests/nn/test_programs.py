"""Programs written for `nn.LSTM` run, and learn, with another class in its place."""

from collections.abc import Callable

import pytest
import torch
from programs import control, language, series, signals, tagging
from torch import nn

PROGRAMS = [
    tagging.sentence_tagger,
    tagging.packed_tagger,
    tagging.sentiment_classifier,
    tagging.entity_recogniser,
    tagging.knowledge_tracing,
    tagging.siamese_similarity,
    language.word_language_model,
    language.char_rnn,
    language.textbook_language_model,
    language.translator,
    language.beam_search,
    language.image_captioner,
    signals.speech_recogniser,
    signals.text_line_reader,
    signals.voice_detector,
    signals.speaker_verifier,
    series.forecaster,
    series.sequential_regressor,
    series.unbatched_regressor,
    series.anomaly_autoencoder,
    series.world_model,
    control.recurrent_ppo,
    control.recurrent_q_learning,
    control.meta_learner,
]


@pytest.mark.parametrize("rnn", [nn.LSTM], ids=lambda rnn: rnn.__name__)
@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.__name__)
def test_program_learns(
    program: Callable[[type[nn.Module]], list[float]], rnn: type[nn.Module]
) -> None:
    torch.manual_seed(0)
    losses = program(rnn)
    assert losses[-1] < 0.7 * losses[0]

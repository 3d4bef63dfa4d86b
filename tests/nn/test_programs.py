"""Programs written for `nn.LSTM` run, and learn, with another class in its place."""

from collections.abc import Callable

import pytest
import torch
from programs import control, language, series, signals, starts, tagging
from torch import nn

from exlstm.nn import MLSTM, SLSTM, XLSTM

Program = Callable[[type[nn.Module]], list[float]]
PROGRAMS: list[Program] = [
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
]
OWN_STARTS: list[Program] = [starts.random_start, starts.learned_start]


def name(thing: Callable[..., object]) -> str:
    return thing.__name__


@pytest.mark.parametrize("rnn", [nn.LSTM, SLSTM, MLSTM, XLSTM], ids=name)
@pytest.mark.parametrize("program", PROGRAMS, ids=name)
@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
def test_program_learns(program: Program, rnn: type[nn.Module]) -> None:
    torch.manual_seed(0)
    losses = program(rnn)
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.parametrize("program", OWN_STARTS, ids=name)
def test_a_cell_of_the_programs_own(program: Program) -> None:
    torch.manual_seed(0)
    losses = program(nn.LSTM)
    assert losses[-1] < 0.7 * losses[0]
    for rnn in (SLSTM, MLSTM, XLSTM):
        with pytest.raises(ValueError, match="c of hx"):
            program(rnn)

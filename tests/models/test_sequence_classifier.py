"""The network behind the classifier of sequences."""

import pytest
import torch

from exlstm.models.classifier import ClassifierConfig, XLSTMSequenceClassifier

SMALL = {"num_classes": 3, "num_inputs": 2, "num_codes": 4, "d_model": 16, "pattern": "ms"}
SHAPES = [
    {"pooling": "last"},
    {"pooling": "mean"},
    {"pooling": "both"},
    {"stride": 3, "input_width": 4, "pooling": "both"},
    {"stride": 8, "pattern": "S"},
]


def network_and_inputs(**changes):
    torch.manual_seed(0)
    network = XLSTMSequenceClassifier(ClassifierConfig(**(SMALL | changes))).eval().double()
    torch.nn.init.normal_(network.head.weight)
    return network, torch.randn(4, 11, 2, dtype=torch.float64), torch.randint(5, (4, 11))


@pytest.mark.parametrize("changes", SHAPES)
def test_the_answer_at_a_step_is_that_of_the_sequence_up_to_it(changes):
    network, values, codes = network_and_inputs(**changes)
    every = network(values, codes, every_step=True)
    assert every.shape == (4, 11, 3)
    for step in range(11):
        ended = network(values[:, : step + 1], codes[:, : step + 1])
        torch.testing.assert_close(every[:, step], ended)
    lengths = torch.tensor([11, 4, 1, 7])
    torch.testing.assert_close(network(values, codes, lengths), every[torch.arange(4), lengths - 1])


@pytest.mark.parametrize("changes", SHAPES)
def test_each_input_is_seen(changes):
    """Also those a stride passes over: the answer has a gradient to each."""
    network, values, codes = network_and_inputs(**changes)
    embedded = network.codes(codes + (codes == 0)).detach().requires_grad_()
    values.requires_grad_()
    network(values, embedded)[:, 0].sum().backward()
    assert (values.grad.abs().sum(2) > 0).all()
    assert (embedded.grad.abs().sum(2) > 0).all()


def test_what_stands_behind_the_end_is_not_seen():
    network, values, codes = network_and_inputs(stride=2)
    lengths = torch.tensor([5, 1, 11, 8])
    before = network(values, codes, lengths)
    behind = torch.arange(11) >= lengths[:, None]
    changed = torch.where(behind[..., None], 1e3, values)
    assert torch.equal(before, network(changed, codes.masked_fill(behind, 3), lengths))


def test_no_code_adds_nothing():
    network, values, codes = network_and_inputs()
    none = torch.zeros_like(codes)
    torch.testing.assert_close(network(values, none), network(values))
    assert not torch.equal(network(values, codes), network(values))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"num_classes": 0}, "num_classes must be at least 1, got 0"),
        ({"num_inputs": 0, "num_codes": 0}, "not both 0"),
        ({"input_width": 2, "stride": 3}, "stride must be at most input_width=2, got 3"),
        ({"pooling": "max"}, "pooling must be .*'max'"),
        ({"pattern": "x"}, "letter 'x' in pattern"),
        ({"dropout": 1.0}, "dropout must be at least 0 and below 1, got 1"),
    ],
)
def test_impossible_shapes_are_refused(changes, said):
    with pytest.raises(ValueError, match=said):
        ClassifierConfig(**(SMALL | changes))

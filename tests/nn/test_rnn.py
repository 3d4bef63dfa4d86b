"""SLSTM, MLSTM and XLSTM where an `nn.LSTM` stands: beside one, or by their equations."""

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence
from torch.utils._pytree import tree_flatten

from exlstm.nn import MLSTM, SLSTM, XLSTM, Memory
from exlstm.testing import assert_agrees

KINDS = [SLSTM, MLSTM, XLSTM]
every_kind = pytest.mark.parametrize("kind", KINDS)
OPTIONS = [
    {},
    {"num_layers": 2},
    {"bidirectional": True},
    {"num_layers": 2, "bidirectional": True, "proj_size": 5, "batch_first": True},
    {"proj_size": 3, "bias": False},
    {"batch_first": True, "num_layers": 3, "dropout": 0.5},
]


@every_kind
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("layout", ["batched", "one sequence", "packed"])
@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
def test_everything_has_the_shape_it_has_in_torch(
    kind: Any, options: dict[str, Any], layout: str
) -> None:
    """Also from zeros made for `nn.LSTM`, and from the state that came out."""
    theirs, ours = nn.LSTM(10, 12, **options), kind(10, 12, **options)
    if layout == "packed":
        x: Any = pack_sequence([torch.randn(n, 10) for n in (4, 7, 1)], enforce_sorted=False)
    else:
        x = torch.randn(3, 7, 10) if layout == "batched" else torch.randn(7, 10)
    y, (h, c) = theirs(x)
    zeros = (torch.zeros_like(h), torch.zeros_like(c))
    state = None
    for _ in range(2):
        for start in (state, zeros):
            got, state = ours(x, start)
            h_n, c_n = state
            assert h_n.shape == h.shape
            assert isinstance(c_n, Memory)
            assert len(c_n) == len(c)
            if isinstance(x, PackedSequence):
                assert got.data.shape == y.data.shape
                assert torch.equal(got.batch_sizes, y.batch_sizes)
                assert torch.equal(got.sorted_indices, y.sorted_indices)
                assert torch.equal(got.unsorted_indices, y.unsorted_indices)
            else:
                assert got.shape == y.shape
                assert got.is_contiguous()


@every_kind
def test_zeros_are_the_empty_memory(kind: Any) -> None:
    layer, x = kind(10, 12, 2), torch.randn(7, 3, 10)
    want, _ = layer(x)
    got, _ = layer(x, (torch.zeros(2, 3, 12), torch.zeros(2, 3, 12)))
    assert torch.equal(got, want)


@every_kind
@pytest.mark.parametrize("options", OPTIONS[:5], ids=str)
def test_layouts_agree(kind: Any, options: dict[str, Any]) -> None:
    layer, x = kind(10, 12, **options).double(), torch.randn(3, 7, 10, dtype=torch.float64)
    layer.batch_first = True
    y, (h_n, _) = layer(x)
    one, (h_one, c_one) = layer(x[1])
    again, _ = layer(x[1], (h_one, c_one))
    layer.batch_first = False
    time_first, (h_time_first, _) = layer(x.transpose(0, 1))
    assert_agrees(
        {"time": time_first.transpose(0, 1), "h": h_time_first, "one": one, "h_one": h_one},
        {"time": y, "h": h_n, "one": y[1], "h_one": h_n[:, 1]},
    )
    assert again.shape == one.shape


@every_kind
@pytest.mark.parametrize("options", OPTIONS[:5], ids=str)
def test_h_n_is_the_last_output(kind: Any, options: dict[str, Any]) -> None:
    layer = kind(10, 12, **options)
    layer.batch_first = True
    y, (h_n, _) = layer(torch.randn(3, 7, 10))
    size = h_n.shape[-1]
    if layer.bidirectional:
        assert torch.equal(h_n[-2], y[:, -1, :size])
        assert torch.equal(h_n[-1], y[:, 0, size:])
    else:
        assert torch.equal(h_n[-1], y[:, -1])


def test_slstm_by_its_equations() -> None:
    """Written out per head, with `nn.LSTM`'s names and order of rows."""
    torch.manual_seed(0)
    layer = SLSTM(5, 6, num_heads=3, batch_first=True).double()
    x = torch.randn(2, 8, 5, dtype=torch.float64)
    w, r, b = layer.weight_ih_l0, layer.weight_hh_l0, layer.bias_l0
    h, c, n = (torch.zeros(2, 6, dtype=torch.float64) for _ in range(3))
    outputs = []
    for t in range(8):
        own = torch.stack([h[:, 2 * (j // 2) : 2 * (j // 2) + 2] for j in range(6)], 1)  # B D V
        own = own.repeat(1, 4, 1)  # for the four gates
        i, f, z, o = (x[:, t] @ w.T + (own * r).sum(-1) + b).chunk(4, -1)
        c = torch.sigmoid(f) * c + torch.exp(i) * torch.tanh(z)
        n = torch.sigmoid(f) * n + torch.exp(i)
        h = torch.sigmoid(o) * c / n
        outputs.append(h)
    got, (h_n, _) = layer(x)
    assert_agrees({"y": got, "h": h_n[0]}, {"y": torch.stack(outputs, 1), "h": h})


def test_block_diagonal_is_dense_with_zeros() -> None:
    torch.manual_seed(0)
    blocks = SLSTM(6, 8, num_heads=2, block_diagonal=True).double()
    dense = SLSTM(6, 8, num_heads=2).double()
    weight = torch.zeros_like(dense.weight_ih_l0)
    for row in range(32):
        head = row % 8 // 4
        weight[row, 3 * head : 3 * head + 3] = blocks.weight_ih_l0[row]
    dense.load_state_dict({**blocks.state_dict(), "weight_ih_l0": weight.detach()})
    x = torch.randn(5, 3, 6, dtype=torch.float64)
    assert_agrees({"y": blocks(x)[0]}, {"y": dense(x)[0]})


def test_mlstm_by_its_equations() -> None:
    torch.manual_seed(0)
    layer = MLSTM(5, 6, num_heads=2, batch_first=True).double()
    with torch.no_grad():
        layer.weight_if_l0.normal_(std=0.3)
    x = torch.randn(2, 8, 5, dtype=torch.float64)
    q, k, v, o = (x @ layer.weight_ih_l0.T + layer.bias_l0).chunk(4, -1)
    i, f = (x @ layer.weight_if_l0.T + layer.bias_if_l0).chunk(2, -1)
    want = torch.zeros(2, 8, 6, dtype=torch.float64)
    for head in range(2):
        part = slice(3 * head, 3 * head + 3)
        c, n = torch.zeros(2, 3, 3).double(), torch.zeros(2, 3).double()
        for t in range(8):
            forget, write = torch.sigmoid(f[:, t, head]), torch.exp(i[:, t, head])
            c = forget[:, None, None] * c
            c = c + write[:, None, None] * k[:, t, part, None] * v[:, t, None, part]
            n = forget[:, None] * n + write[:, None] * k[:, t, part]
            query = q[:, t, part] / 3**0.5
            below = (n * query).sum(-1).abs().clamp_min(1.0)
            h = torch.einsum("bkv,bk->bv", c, query) / below[:, None]
            h = (h - h.mean(-1, keepdim=True)) / (
                h.var(-1, correction=0, keepdim=True) + 1e-5
            ).sqrt()
            want[:, t, part] = torch.sigmoid(o[:, t, part]) * h
    assert_agrees({"y": layer(x)[0]}, {"y": want})


def test_projection_is_a_map_of_each_layers_output() -> None:
    layer = SLSTM(5, 6, proj_size=4)
    plain = SLSTM(5, 6)
    plain.load_state_dict({k: v for k, v in layer.state_dict().items() if "hr" not in k})
    x = torch.randn(7, 2, 5)
    torch.testing.assert_close(layer(x)[0], plain(x)[0] @ layer.weight_hr_l0.T)


def test_slstm_starts_from_a_given_h() -> None:
    """As a decoder from features: with an empty memory, h alone is the start."""
    layer = SLSTM(5, 6).double()
    x = torch.randn(7, 2, 5, dtype=torch.float64)
    h = torch.rand(1, 2, 6, dtype=torch.float64, requires_grad=True)
    y, _ = layer(x, (h, torch.zeros_like(h).detach()))
    assert not torch.equal(y, layer(x)[0])
    (gradient,) = torch.autograd.grad(y.sum(), h)
    assert gradient.abs().min() > 0


@every_kind
def test_repackaged_states_are_states(kind: Any) -> None:
    """Each way programs detach a state, and each continues as the state itself."""

    def repackage(h: Any) -> Any:
        return h.detach() if isinstance(h, Tensor) else tuple(repackage(v) for v in h)

    layer, x = kind(10, 12, 2), torch.randn(7, 3, 10)
    _, state = layer(x)
    want, _ = layer(x, state)
    for again in (
        tuple(s.detach() for s in state),
        repackage(state),
        tuple(s.data for s in state),
        tuple(s.clone() for s in state),
        tuple(s.to("cpu", torch.float32) for s in state),
        tuple(s.cpu().contiguous() for s in state),
        tuple(s[:2] for s in state),
        tuple(s[:, :3] for s in state),
        tuple(s.index_select(1, torch.arange(3)) for s in state),
        pickle.loads(pickle.dumps(tuple(s.detach() for s in state))),
        copy.deepcopy(tuple(s.detach() for s in state)),
    ):
        assert torch.equal(layer(x, again)[0], want)
    assert all(s.requires_grad for s in tree_flatten(state)[0] if s.is_floating_point())
    for s in state:
        s.detach_()
    assert not any(s.requires_grad for s in tree_flatten(state)[0])
    assert torch.equal(layer(x, state)[0], want)


@every_kind
@pytest.mark.parametrize(
    "keep",
    [torch.tensor([[1.0], [0.0], [1.0]]), torch.tensor([[[1], [0], [1]]]),
     torch.tensor([[True], [False], [True]])],
    ids=["(B, 1)", "(1, B, 1)", "bool"],
)  # fmt: skip
@pytest.mark.parametrize("side", ["left", "right"])
def test_zero_in_a_mask_empties_a_row_and_one_keeps_it(kind: Any, keep: Tensor, side: str) -> None:
    layer, x = kind(10, 12, 2), torch.randn(7, 3, 10)
    fresh, state = layer(x)
    kept, _ = layer(x, state)
    masked = tuple(s * keep if side == "right" else keep * s for s in state)
    y, _ = layer(x, masked)
    assert torch.equal(y[:, 1], fresh[:, 1])
    assert torch.equal(y[:, ::2], kept[:, ::2])
    reset = torch.zeros(3, 7, dtype=torch.bool)
    reset[1, 0] = True
    torch.testing.assert_close(layer(x, state, reset=reset)[0], y)


@every_kind
def test_rows_of_a_memory(kind: Any) -> None:
    layer, x = kind(10, 12, 2), torch.randn(7, 3, 10)
    _, (h_n, c_n) = layer(x)
    want, _ = layer(x, (h_n, c_n))
    for rows in ([2, 0], torch.tensor([1]), slice(1, 3), torch.tensor([True, False, True])):
        y, _ = layer(x[:, rows], (h_n[:, rows], c_n[:, rows]))
        torch.testing.assert_close(y, want[:, rows])
    y, _ = layer(x[:, 1], (h_n[:, 1], c_n[:, 1]))
    torch.testing.assert_close(y, want[:, 1])
    y, _ = layer(x[:, -1], (h_n[:, -1], c_n[:, -1]))
    torch.testing.assert_close(y, want[:, -1])
    y, _ = layer(x[:, :2], (h_n[:, :2, :], c_n[:, :2, :]))
    torch.testing.assert_close(y, want[:, :2])


@every_kind
@pytest.mark.parametrize("done", [1, [1], torch.tensor([False, True, False])], ids=str)
def test_rows_set_to_zero_are_empty(kind: Any, done: Any) -> None:
    layer, x = kind(10, 12, 2), torch.randn(7, 3, 10)
    with torch.no_grad():
        fresh, (h_n, c_n) = layer(x)
        kept, _ = layer(x, (h_n, c_n))
        h_n[:, done] = 0
        c_n[:, done] = 0
        y, _ = layer(x, (h_n, c_n))
    assert torch.equal(y[:, 1], fresh[:, 1])
    assert torch.equal(y[:, ::2], kept[:, ::2])
    with pytest.raises(ValueError, match=r"set to 0 \(emptied\), and to nothing else"):
        c_n[:, done] = 1


@pytest.mark.parametrize(
    ("use", "error", "message"),
    [
        (lambda c: c * 0.5, ValueError, "multiplied by 0 .* or 1"),
        (lambda c: c * torch.ones(3), ValueError, r"\(3, 1\) or \(1, 3, 1\), got shape \(3,\)"),
        (lambda c: c * torch.ones(2, 1), ValueError, r"3 rows .* got shape \(2, 1\)"),
        (lambda c: c.index_select(0, torch.tensor([0])), ValueError, "dim 1, .* got dim 0"),
        (lambda c: c[0, 1], IndexError, r"memory\[:, rows\] or memory\[layer\]"),
    ],
)
def test_what_a_memory_cannot_do_is_said(use: Any, error: Any, message: str) -> None:
    _, (_, c_n) = SLSTM(10, 12)(torch.randn(7, 3, 10))
    with pytest.raises(error, match=message):
        use(c_n)


def call(layer: nn.Module, hx: Any = None, size: tuple[int, ...] = (7, 3, 10), **flags: Any) -> Any:
    return layer(torch.randn(size), hx, **flags)


STATE = SLSTM(10, 12)(torch.randn(7, 3, 10))[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": (7, 3, 9)}, "input_size=10 as its last size, got 9"),
        ({"size": (7, 3, 9, 10)}, r"input must have 2 or 3 dimensions, got \(7, 3, 9, 10\)"),
        ({"hx": torch.zeros(1, 3, 12)}, r"hx must be a tuple \(h, c\) .*got Tensor"),
        ({"hx": (torch.zeros(2, 3, 12), STATE[1])}, r"h .*\(1, 3, 12\), got \(2, 3, 12\)"),
        ({"hx": (torch.zeros(1, 2, 12), STATE[1])}, r"h .*\(1, 3, 12\), got \(1, 2, 12\)"),
        ({"hx": (STATE[0], STATE[1][:, :2])}, "c of hx must have 3 rows, as the input, got 2"),
        ({"hx": (STATE[0], Memory((*STATE[1], *STATE[1])))}, "c of hx must have 1 entries.* got 2"),
        ({"hx": (STATE[0], torch.zeros(1, 3, 11))}, r"zeros of \(1, 3, 12\), got \(1, 3, 11\)"),
        ({"hx": (STATE[0], torch.ones(1, 3, 12))}, "not zero: an xLSTM's memory has a normaliser"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_wrong_calls_are_named_with_what_fits(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(SLSTM(10, 12), **arguments)


@pytest.mark.parametrize("kind", [MLSTM, XLSTM])
def test_an_h_that_would_be_ignored_is_refused(kind: Any) -> None:
    with pytest.raises(ValueError, match=r"no step of .* reads h, all its memory is in c"):
        call(kind(10, 12), (torch.ones(1, 3, 12), torch.zeros(1, 3, 12)))


@every_kind
@pytest.mark.parametrize(
    ("size", "want"), [((7, 3, 10), r"\(3, 7\)"), ((7, 10), r"\(1, 7\)")], ids=["batched", "one"]
)
@pytest.mark.parametrize("name", ["mask", "reset"])
def test_masks_are_batch_first_and_bool(kind: Any, size: Any, want: str, name: str) -> None:
    for wrong in (torch.ones(size[:-1], dtype=torch.bool)[:5], torch.ones(size[:-1])):
        with pytest.raises(ValueError, match=f"{name} must be a bool tensor of shape .* = {want}"):
            call(kind(10, 12), size=size, **{name: wrong})


def test_a_packed_sequence_takes_no_lengths() -> None:
    packed = pack_sequence([torch.randn(3, 10)])
    with pytest.raises(ValueError, match="a PackedSequence has its lengths in it"):
        SLSTM(10, 12)(packed, lengths=[3])


@every_kind
@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((0, 12), {}, "input_size must be at least 1, got 0"),
        ((10, -1), {}, "hidden_size must be at least 1, got -1"),
        ((10, 12, 0), {}, "num_layers must be at least 1, got 0"),
        ((10, 12), {"proj_size": 12}, "smaller than hidden_size=12, got 12"),
        ((10, 12), {"dropout": 1.5}, "dropout must be between 0 and 1, got 1.5"),
        ((10, 12), {"num_heads": 5}, "num_heads=5 must .* divide hidden_size=12"),
    ],
)
def test_wrong_sizes_are_named(kind: Any, arguments: Any, options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kind(*arguments, **options)


@every_kind
def test_dropout_without_a_second_layer_is_pointed_out(kind: Any) -> None:
    with pytest.warns(UserWarning, match="dropout=0.1 acts between layers, and num_layers=1"):
        kind(10, 12, dropout=0.1)


@every_kind
@pytest.mark.parametrize("size", [1, 7, 10, 25, 33])
def test_any_hidden_size_will_do(kind: Any, size: int) -> None:
    y, _ = kind(3, size)(torch.randn(4, 2, 3))
    assert y.shape == (4, 2, size)


@every_kind
def test_dropout_acts_between_layers_in_training_only(kind: Any) -> None:
    layer, x = kind(10, 12, 2, dropout=0.5), torch.randn(7, 3, 10)
    assert not torch.equal(layer(x)[0], layer(x)[0])
    layer.eval()
    assert torch.equal(layer(x)[0], layer(x)[0])
    all_dropped = kind(10, 12, 2, dropout=1.0)
    assert torch.equal(all_dropped(x)[0], all_dropped(2 * x)[0])


@every_kind
def test_a_module_like_any_other(kind: Any) -> None:
    """state_dict, deepcopy, pickling, functional_call, device and dtype, repr."""
    layer, x = kind(10, 12, 2, bidirectional=True), torch.randn(7, 3, 10)
    layer.flatten_parameters()
    want = layer(x)[0]
    other = kind(10, 12, 2, bidirectional=True)
    other.load_state_dict(layer.state_dict())
    for same in (other, copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(same(x)[0], want)
    parameters = {name: p.detach() for name, p in layer.named_parameters()}
    fresh = kind(10, 12, 2, bidirectional=True)
    assert torch.equal(torch.func.functional_call(fresh, parameters, (x,))[0], want)
    wide = kind(10, 12, dtype=torch.float64, device="cpu")
    assert wide(x.double())[1][1][0][0] is not None
    assert {p.dtype for p in wide.parameters()} == {torch.float64}
    assert {p.device.type for p in kind(10, 12, device="meta").parameters()} == {"meta"}
    shown = repr(kind(10, 12, 2, batch_first=True, num_heads=3)).replace("\n", " ")
    assert "10, 12, num_layers=2, batch_first=True, num_heads=3" in shown


@pytest.mark.parametrize("kind", [SLSTM, MLSTM])
def test_parameters_are_named_as_in_torch_and_can_be_shared(kind: Any) -> None:
    options: dict[str, Any] = {"num_layers": 2, "bidirectional": True, "proj_size": 3}
    theirs = {name.split("_l")[1] for name, _ in nn.LSTM(10, 12, **options).named_parameters()}
    first, second = kind(10, 12, **options), kind(10, 12, **options)
    assert {name.split("_l")[1] for name, _ in first.named_parameters()} == theirs
    assert [p.shape[0] for n, p in first.named_parameters() if "weight_ih" in n] == [48] * 4
    second.weight_ih_l0 = first.weight_ih_l0
    assert second.weight_ih_l0 is first.weight_ih_l0
    flat = [name for names in first._all_weights for name in names]
    assert flat == [name for name, _ in first.named_parameters()]


@every_kind
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_narrow_dtypes_keep_float32_states(kind: Any, dtype: torch.dtype) -> None:
    """As parameters and by autocast; and pieces are still the whole, h_n rounded or not."""
    torch.manual_seed(0)
    layer, x = kind(10, 12, 2), torch.randn(9, 3, 10)
    exact = layer(x)[0]

    def pieces(x: Tensor) -> tuple[Tensor, Tensor, Any]:
        whole, _ = layer(x)
        first, state = layer(x[:4])
        second, state = layer(x[4:], state)
        return whole, torch.cat((first, second)), state

    with torch.autocast("cpu", dtype=dtype):
        by_autocast = pieces(x)
    layer.to(dtype)
    for whole, parts, (h_n, c_n) in (by_autocast, pieces(x.to(dtype))):
        assert {part.dtype for part in tree_flatten(c_n)[0]} == {torch.float32}
        assert torch.equal(h_n[-1], parts[-1])
        assert (whole.float() - exact).norm() < 0.05 * exact.norm()
        assert (parts.float() - whole.float()).norm() < 0.01 * exact.norm()
    assert layer(x.to(dtype))[0].dtype == dtype


@every_kind
def test_truncated_backpropagation_in_three_lines(kind: Any) -> None:
    """A stream in pieces: the state goes on, the gradient does not."""
    layer = kind(10, 12)
    stream = torch.randn(30, 2, 10, requires_grad=True)
    state = None
    for piece in stream.split(7):
        y, state = layer(piece, state)
        (gradient,) = torch.autograd.grad(y.square().mean(), stream)
        assert (gradient.abs().sum((1, 2)) > 0).sum() == len(piece)
        state = tuple(s.detach() for s in state)
    torch.testing.assert_close(y, layer(stream)[0][-len(y) :])

import pytest
import torch
import torch.nn.functional as F

from exlstm.nn import BlockLinear, CausalConv1d, GatedMLP, HeadNorm, init
from exlstm.nn.layers import check_divides, round_up, soft_cap


def test_block_linear_is_the_block_diagonal_matrix() -> None:
    layer = BlockLinear(3, 4, 2).double()
    torch.nn.init.normal_(layer.weight)
    x = torch.randn(2, 5, 12, dtype=torch.float64)
    dense = torch.block_diag(*layer.weight)
    torch.testing.assert_close(layer(x), x @ dense.T)


def test_head_norm_is_the_layer_norm_of_each_head() -> None:
    norm = HeadNorm(3, 4, eps=1e-3).double()
    torch.nn.init.normal_(norm.weight)
    h = torch.randn(2, 5, 3, 4, dtype=torch.float64)
    mean = h.mean(-1, keepdim=True)
    variance = ((h - mean) ** 2).mean(-1, keepdim=True)
    expected = ((h - mean) / (variance + 1e-3).sqrt()).reshape(2, 5, 12) * norm.weight
    torch.testing.assert_close(norm(h), expected)


def test_conv_is_torch_conv1d_with_zeros_in_front() -> None:
    conv = CausalConv1d(6, 4).double()
    x = torch.randn(2, 9, 6, dtype=torch.float64)
    padded = F.pad(x.mT, (3, 0))
    expected = F.conv1d(padded, conv.weight[:, None], conv.bias, groups=6).mT
    torch.testing.assert_close(conv(x)[0], expected)


def test_gated_mlp_is_its_formula() -> None:
    mlp = GatedMLP(8, 16, activation=F.silu)
    x = torch.randn(2, 3, 8)
    w_gate, w_up, w_down = (p.T for p in mlp.parameters())
    a = x @ w_gate
    torch.testing.assert_close(mlp(x), ((a * torch.sigmoid(a)) * (x @ w_up)) @ w_down)


def test_round_up() -> None:
    assert [round_up(w) for w in (1.0, 64.0, 64.1, 1.3 * 768, 8 * 4096 / 3)] == [
        64,
        64,
        128,
        1024,
        10944,
    ]


def test_soft_cap_is_near_identity_below_and_bounded_above() -> None:
    x = torch.tensor([-1e9, -0.01, 0.0, 0.01, 1e9])
    torch.testing.assert_close(soft_cap(x, 15.0), torch.tensor([-15.0, -0.01, 0.0, 0.01, 15.0]))
    assert soft_cap(x, None) is x


def test_check_divides_names_both_sizes() -> None:
    with pytest.raises(ValueError, match=r"num_heads=3 must be positive and divide d_model=32"):
        check_divides("num_heads", 3, "d_model", 32)


def test_power_law_forget_bias_runs_from_5_to_minus_7_and_flattens_with_depth() -> None:
    first, last = torch.empty(2, 9), torch.empty(2, 9)
    init.power_law_forget_bias_(first, 0, 4)
    init.power_law_forget_bias_(last, 3, 4)
    for bias in (first, last):
        assert bias[0, 0] == bias[1, 0] == 5
        assert bias[0, -1] == -7
        assert (bias.diff() < 0).all()
    expected = 5 - 12 * (torch.arange(9) / 8) ** 1.6
    torch.testing.assert_close(last[0], expected)
    assert (last[:, 1:-1] > first[:, 1:-1]).all()
    single = torch.empty(2, 1)
    init.power_law_forget_bias_(single, 0, 1)
    assert (single == 5).all()


def test_normal_initialisations_have_the_sources_deviation() -> None:
    torch.manual_seed(0)
    weight = torch.empty(400, 400)
    init.small_(weight, 512)
    assert weight.std() == pytest.approx((2 / (5 * 512)) ** 0.5, rel=0.01)
    init.wang_(weight, 512, 24)
    assert weight.std() == pytest.approx(2 / (24 * 512**0.5), rel=0.01)

"""The linear map of few rows with weights of one, two or four bytes."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from exlstm.ops import native
from exlstm.ops.linear_native import linear_rows
from exlstm.testing import assert_as_accurate, generator, normal

SIZES = ((1, 1, 1), (1, 64, 8), (2, 65, 9), (3, 127, 15), (8, 200, 33), (5, 3, 1))  # rows X Y
DTYPES = (torch.int8, torch.bfloat16, torch.float32)
pytestmark = pytest.mark.skipif(native.library() is None, reason=str(native.reason()))


def inputs(rows: int, size: int, out: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    g = generator(f"linear/{rows}/{size}/{out}")
    x, scale = normal(g, rows, size).float(), normal(g, out).float()
    weight = torch.randint(-127, 128, (out, size), generator=g)
    return x, weight.to(dtype) if dtype == torch.int8 else normal(g, out, size).to(dtype), scale


@pytest.mark.usefixtures("level")
def test_contract() -> None:
    """The rule of `exlstm/testing.py`, on every size and dtype and at every level."""
    for size in SIZES:
        for dtype in DTYPES:
            x, weight, scale = inputs(*size, dtype)
            fast = {"y": linear_rows(x, weight, scale), "ones": linear_rows(x, weight)}
            plain = {"y": F.linear(x, weight.float()) * scale, "ones": F.linear(x, weight.float())}
            product = F.linear(x.double(), weight.double())
            truth = {"y": product * scale.double(), "ones": product}
            assert_as_accurate(fast, plain, truth, torch.float32)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_rows_and_threads_change_no_bit(dtype: torch.dtype) -> None:
    x, weight, scale = inputs(7, 200, 133, dtype)
    whole = linear_rows(x, weight, scale)
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        assert torch.equal(linear_rows(x, weight, scale), whole)
    for row in range(7):
        assert torch.equal(linear_rows(x[row], weight, scale), whole[row])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_what_is_not_finite_stays_so_in_its_row(dtype: torch.dtype) -> None:
    x, weight, scale = inputs(3, 65, 9, dtype)
    weight = weight.abs().clamp_min(1)
    x[0, 64], x[1, 3] = torch.nan, torch.inf
    y = linear_rows(x, weight, scale.abs() + 1)
    assert y[0].isnan().all()
    assert y[1].isposinf().all()
    assert y[2].isfinite().all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_opcheck(dtype: torch.dtype) -> None:
    x, weight, scale = inputs(2, 65, 9, dtype)
    torch.library.opcheck(torch.ops.exlstm.linear_rows, (x.view(1, 2, 65), weight, scale))

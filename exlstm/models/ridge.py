"""The linear map from windows to what follows them, in closed form."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from exlstm.shapes import Float


def ridge(
    rows: Iterable[tuple[Float[Tensor, "_ X"], Float[Tensor, "_ Y"]]], strengths: tuple[float, ...]
) -> list[Float[Tensor, "Y X"]]:
    r"""$(Y^\top X)(X^\top X + \lambda n \bar g I)^{-1}$: least squares, shrunk to zero.

    $\bar g$ is the mean square of a column of X, so that a strength means the same in any unit.

    Args:
        rows: X and Y in pieces of any number of rows, n rows in all.
        strengths: Values of $\lambda$, above 0.

    Returns:
        A map in float64 for each strength.

    Example:
        >>> x = torch.randn(100, 2)
        >>> torch.allclose(ridge([(x, 3 * x)], (1e-9,))[0].float(), 3 * torch.eye(2), atol=1e-4)
        True
    """
    inner, outer = 0.0, 0.0
    for x, y in rows:
        inner = inner + (x.mT @ x).double()
        outer = outer + (x.mT @ y).double()
    assert isinstance(inner, Tensor)
    assert isinstance(outer, Tensor)
    values, vectors = torch.linalg.eigh(inner)
    turned = vectors.mT @ outer
    unit = values.mean().clamp_min(torch.finfo(values.dtype).tiny)  # of X = 0, the map is 0
    return [(vectors @ (turned / (values + s * unit)[:, None])).mT for s in strengths]

"""Shape annotations, and the letters they are written in.

| letter | size                              | letter | size                              |
|--------|-----------------------------------|--------|-----------------------------------|
| `B`    | batch                             | `D`    | model width                       |
| `T`    | time                              | `F`    | feed-forward width                |
| `H`    | heads                             | `G`    | gates: 4, in the order i, f, z, o |
| `K`    | query/key size per head           | `N`    | number of chunks                  |
| `V`    | value (sLSTM: cell) size per head | `L`    | chunk length                      |
| `A`    | alphabet (vocabulary)             | `W`    | convolution width                 |

The annotations are strings at run time. Only where jaxtyping is already loaded, as under the
pytest import hook that checks every shape, do the names below stand for the real types.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING or "jaxtyping" in sys.modules:
    from jaxtyping import Bool, Float, Int
else:
    Bool = Float = Int = None

__all__ = ["Bool", "Float", "Int"]

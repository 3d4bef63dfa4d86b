"""The forecaster as a model of neuralforecast, and so of darts, which wraps those."""
# pyright: basic, reportMissingImports=false

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

try:
    from neuralforecast.common._base_model import BaseModel
    from neuralforecast.losses.pytorch import MAE
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"exlstm.adapters.neuralforecast needs {error.name}: pip install neuralforecast"
    ) from None

from exlstm.models.forecaster import ForecasterConfig, XLSTMForecastModel

# What its own models say for themselves, as `BaseModel` has no defaults for them.
_DEFAULTS: dict[str, Any] = {
    "valid_loss": None, "random_seed": 1, "val_check_steps": 100, "batch_size": 32,
    "valid_batch_size": None, "windows_batch_size": 1024, "inference_windows_batch_size": 1024,
    "start_padding_enabled": False,
}  # fmt: skip


class EXLSTM(BaseModel):
    """`exlstm.models.XLSTMForecastModel` with neuralforecast's data, losses and training.

    Missing values and gaps are the model's business: steps that are not available are missing to
    it. It normalises each window itself, so `scaler_type` stays `"identity"`.

    Args:
        h: Horizon.
        input_size: Look-back.
        patch_length: As in `exlstm.models.ForecasterConfig`, and so the next four.
        pattern: Blocks of the backbone.
        d_model: Width.
        num_heads: Number of heads.
        dropout: Of the tokens and of every residual branch.
        loss: A point loss, or `MQLoss` or `IQLoss`-like ones with `quantiles`.
        max_steps: Of training.
        learning_rate: Of neuralforecast's optimiser.
        **options: All that `neuralforecast.common._base_model.BaseModel` takes.

    Raises:
        ValueError: The loss asks for the parameters of a distribution.

    Example:
        >>> from neuralforecast import NeuralForecast  # doctest: +SKIP
        >>> model = EXLSTM(h=12, input_size=48, max_steps=200)  # doctest: +SKIP
        >>> NeuralForecast(models=[model], freq="ME").fit(frame)  # doctest: +SKIP
    """

    EXOGENOUS_FUTR = True
    EXOGENOUS_HIST = True
    EXOGENOUS_STAT = True
    MULTIVARIATE = False
    RECURRENT = False

    def __init__(
        self,
        h: int,
        input_size: int,
        patch_length: int = 16,
        pattern: str = "ss",
        d_model: int = 64,
        num_heads: int = 4,
        dropout: float = 0.0,
        loss: Any = None,
        max_steps: int = 1000,
        learning_rate: float = 1e-3,
        **options: Any,
    ) -> None:
        super().__init__(
            h=h, input_size=input_size, loss=MAE() if loss is None else loss,
            max_steps=max_steps, learning_rate=learning_rate, **{**_DEFAULTS, **options},
        )  # fmt: skip
        asked = _quantiles(self.loss)
        ordered = sorted(asked)
        self.columns = [ordered.index(level) for level in asked]
        self.model = XLSTMForecastModel(
            ForecasterConfig(
                horizon=h,
                context_length=self.input_size,
                patch_length=patch_length,
                num_past=self.hist_exog_size,
                num_future=self.futr_exog_size,
                num_static=self.stat_exog_size,
                quantiles=tuple(ordered),
                pattern=pattern,
                d_model=d_model,
                num_heads=num_heads,
                dropout=dropout,
            )
        )

    def forward(self, windows_batch: Mapping[str, Tensor | None]) -> Tensor:
        """The forecast (B, h, Q) of neuralforecast's windows."""
        target, available = windows_batch["insample_y"], windows_batch["insample_mask"]
        assert target is not None
        target = target.squeeze(-1)
        if available is not None:
            target = target.masked_fill(available.reshape(target.shape) == 0, torch.nan)
        forecast = self.model(
            target,
            windows_batch["hist_exog"],
            windows_batch["futr_exog"],
            windows_batch["stat_exog"],
        )
        # A window without any value: neuralforecast's losses know no NaN, its masks leave it out.
        return forecast[..., self.columns].nan_to_num()


def _quantiles(loss: Any) -> list[float]:
    """The quantiles a loss asks for, in its order; a point loss has the middle one."""
    if loss.is_distribution_output:
        raise ValueError(
            f"loss: {type(loss).__name__} asks for the parameters of a distribution; give a point "
            "loss such as MAE, or MQLoss for quantiles"
        )
    quantiles = getattr(loss, "quantiles", None)
    if quantiles is not None and loss.outputsize_multiplier == len(quantiles):
        return [round(level, 6) for level in quantiles.tolist()]
    return [0.5]

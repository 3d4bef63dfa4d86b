import dataclasses
import math

import pytest
import torch
from torch import Tensor

from exlstm.models.forecaster import ForecasterConfig, XLSTMForecastModel
from exlstm.models.patches import fill, flag, last_steps, to_patches
from exlstm.models.ridge import ridge

CONFIG = ForecasterConfig(
    horizon=7, context_length=19, patch_length=4, num_past=2, num_future=1, num_static=3,
    d_model=16, num_heads=2, pattern="sm",
)  # fmt: skip
PLAIN = dataclasses.replace(CONFIG, num_past=0, num_future=0, num_static=0)


def drawn(config: ForecasterConfig = PLAIN) -> XLSTMForecastModel:
    """A model none of whose parts is at its start, where many are zero."""
    torch.manual_seed(0)
    model = XLSTMForecastModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def covariates(rows: int, steps: int) -> dict[str, Tensor]:
    torch.manual_seed(1)
    return {
        "past": torch.randn(rows, steps, 2),
        "future": torch.randn(rows, steps + 7, 1),
        "static": torch.randn(rows, 3),
    }


@pytest.mark.parametrize("steps", [1, 2, 18, 19, 20, 50])
def test_any_length_gives_quantiles_that_never_cross(steps: int) -> None:
    quantiles = drawn(CONFIG)(torch.randn(3, steps).cumsum(1), **covariates(3, steps))
    assert quantiles.shape == (3, 7, 9)
    assert quantiles.isfinite().all()
    assert (quantiles.diff(dim=-1) >= 0).all()


@pytest.mark.parametrize(
    ("horizon", "context_length", "patch_length", "quantiles"),
    [(1, 1, 1, (0.5,)), (5, 3, 7, (0.1, 0.9)), (12, 8, 4, (0.025, 0.5, 0.975)), (3, 9, 2, (0.9,))],
)
def test_any_sizes(
    horizon: int, context_length: int, patch_length: int, quantiles: tuple[float, ...]
) -> None:
    config = ForecasterConfig(
        horizon=horizon, context_length=context_length, patch_length=patch_length,
        quantiles=quantiles, d_model=8, num_heads=2, pattern="s",
    )  # fmt: skip
    target, truth = torch.randn(40, 11), torch.randn(40, horizon)
    model = drawn(config)
    assert model(target).shape == (40, horizon, len(quantiles))
    assert model.start_from(target, truth, (target, truth)) is not None
    assert model.loss(target, truth).isfinite()


@pytest.mark.parametrize("quantiles", [(0.1, 0.9), (0.95,), (0.5,)])
def test_what_is_asked_for_does_not_move_the_rest(quantiles: tuple[float, ...]) -> None:
    """The two forecasts meet at the median, whether it is asked for or not."""
    model = drawn(dataclasses.replace(PLAIN, quantiles=quantiles))
    whole = XLSTMForecastModel(
        dataclasses.replace(PLAIN, quantiles=tuple(sorted({*quantiles, 0.5})))
    )
    whole.load_state_dict(model.state_dict())
    target = torch.randn(3, 19)
    kept = [level in quantiles for level in whole.config.quantiles]
    torch.testing.assert_close(model(target), whole.eval()(target)[..., kept])


def test_only_the_last_context_is_read() -> None:
    target, extra = torch.randn(2, 30), covariates(2, 30)
    cut = {
        "past": extra["past"][:, -19:],
        "future": extra["future"][:, -26:],
        "static": extra["static"],
    }
    model = drawn(CONFIG)
    torch.testing.assert_close(model(target, **extra), model(target[:, -19:], **cut))


def test_a_short_past_is_one_that_is_missing_on_the_left() -> None:
    target = torch.randn(2, 5)
    longer = torch.cat([torch.full((2, 8), math.nan), target], dim=1)
    model = drawn()
    torch.testing.assert_close(model(target), model(longer))


@pytest.mark.parametrize("gap", [slice(0, 3), slice(7, 8), slice(14, 19), slice(1, 19)])
def test_gaps_anywhere_give_a_forecast(gap: slice) -> None:
    target = torch.randn(2, 19)
    model = drawn()
    with_gap = target.clone()
    with_gap[:, gap] = math.nan
    quantiles = model(with_gap)
    assert quantiles.isfinite().all()
    assert not torch.allclose(quantiles, model(target))


def test_what_is_missing_is_not_what_is_zero() -> None:
    model, target = drawn(CONFIG), torch.randn(2, 19)
    zeros = {name: torch.zeros_like(value) for name, value in covariates(2, 19).items()}
    missing = {name: torch.full_like(value, math.nan) for name, value in zeros.items()}
    assert not torch.allclose(model(target, **zeros), model(target, **missing))
    torch.testing.assert_close(model(target, **missing), model(target))


def test_a_window_without_a_value_has_no_forecast_and_no_loss() -> None:
    model = drawn().train()
    target, truth = torch.randn(3, 19), torch.randn(3, 7)
    target[1] = math.nan
    quantiles = model(target)
    assert quantiles[1].isnan().all()
    assert quantiles[[0, 2]].isfinite().all()
    loss = model.loss(target, truth)
    torch.testing.assert_close(loss, model.loss(target[[0, 2]], truth[[0, 2]]))
    loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize("value", [0.0, 0.1, -3e6])
def test_a_constant_window_is_forecast_to_stay(value: float) -> None:
    model = drawn().train()
    target, truth = torch.full((2, 19), value), torch.full((2, 7), value + 1)
    torch.testing.assert_close(model(target), torch.full((2, 7, 9), value))
    loss = model.loss(target, truth)
    loss.backward()
    assert loss.isfinite()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_units_do_not_matter() -> None:
    model, target = drawn().double(), torch.randn(4, 19, dtype=torch.float64)
    target[0, 3:6] = math.nan
    torch.testing.assert_close(model(1e4 * target - 1e6), 1e4 * model(target) - 1e6)
    truth = torch.randn(4, 7, dtype=torch.float64)
    torch.testing.assert_close(
        model.loss(10 * target + 3, 10 * truth + 3), model.loss(target, truth)
    )


def test_a_row_alone_is_the_row_in_the_batch() -> None:
    model, target, extra = drawn(CONFIG), torch.randn(3, 19), covariates(3, 19)
    target[0, 4] = math.nan
    target[2] = math.nan
    together = model(target, **extra)
    for row in range(3):
        alone = model(target[row : row + 1], **{k: v[row : row + 1] for k, v in extra.items()})
        torch.testing.assert_close(alone[0], together[row], equal_nan=True)


@pytest.mark.parametrize("name", ["past", "future", "static"])
def test_each_covariate_is_read(name: str) -> None:
    model, target, extra = drawn(CONFIG), torch.randn(2, 19), covariates(2, 19)
    changed = extra | {name: extra[name] + 1.0}
    assert not torch.allclose(model(target, **extra), model(target, **changed))


def test_the_future_is_read_to_its_last_step() -> None:
    model, target, extra = drawn(CONFIG), torch.randn(2, 19), covariates(2, 19)
    changed = extra["future"].clone()
    changed[:, -1] += 1.0
    assert not torch.allclose(model(target, **extra), model(target, **extra | {"future": changed}))


def test_the_gradient_reaches_every_parameter() -> None:
    model = drawn(CONFIG).train()
    model.loss(torch.randn(4, 19), torch.randn(4, 7), **covariates(4, 19)).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


def test_the_loss_is_twice_the_mean_quantile_loss() -> None:
    model, target, truth = drawn(), torch.randn(2, 19), torch.randn(2, 7)
    errors = truth[..., None] - model(target)
    pairs = zip(PLAIN.quantiles, errors.unbind(-1), strict=True)
    each = torch.stack([torch.where(e > 0, q * e, (q - 1) * e) for q, e in pairs])
    torch.testing.assert_close(model.loss(target, truth, own_units=True), 2 * each.mean())
    each = each / target.std(1, correction=0)[:, None]
    torch.testing.assert_close(model.loss(target, truth), 2 * each.mean())


@pytest.mark.parametrize("training", [True, False])
def test_a_truth_that_is_missing_is_not_counted(training: bool) -> None:
    model, target, truth = drawn().train(training), torch.randn(2, 19), torch.randn(2, 7)
    gap = truth.clone()
    gap[1] = math.nan
    torch.testing.assert_close(model.loss(target, gap), model.loss(target[:1], truth[:1]))
    assert model.loss(target, truth * math.nan) == 0


def test_the_line_starts_as_the_ridge_regression() -> None:
    """Of series that a line continues exactly; training leaves it as it is."""
    torch.manual_seed(0)
    series = torch.randn(200, 1) * torch.arange(26.0) + torch.randn(200, 1)
    target, truth = series.clone().split([19, 7], dim=1)
    truth[3, 2] = math.nan
    target[4] = math.nan
    model = XLSTMForecastModel(PLAIN)
    chosen = model.start_from(target, truth, (target[:9], truth[:9]), strengths=(1.0, 1e-7))
    assert chosen == 1e-7
    line = target[9:, -1:] + model.line(target[9:] - target[9:, -1:])
    torch.testing.assert_close(line, truth[9:], atol=1e-2, rtol=1e-3)
    before = {name: value.clone() for name, value in model.named_parameters()}
    model.loss(target, truth).backward()
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    kept = {name for name, value in model.named_parameters() if torch.equal(value, before[name])}
    assert kept == {"line.weight", "across.weight"}
    assert model.start_from(target, truth * math.nan) is None


def test_windows_weigh_the_same_in_their_own_deviation() -> None:
    torch.manual_seed(0)
    target, truth = torch.randn(60, 19), torch.randn(60, 7)
    large = 1000 * torch.rand(60, 1)
    model = XLSTMForecastModel(PLAIN)

    def started(target: Tensor, truth: Tensor, *, own_units: bool) -> Tensor:
        assert model.start_from(target, truth, own_units=own_units) == 0.1
        return torch.cat([model.line.weight.flatten(), model.across.weight.flatten()]).clone()

    alike = started(target, truth, own_units=False)
    torch.testing.assert_close(started(large * target, large * truth, own_units=False), alike)
    assert not torch.allclose(started(large * target, large * truth, own_units=True), alike)


def test_patches_start_as_the_season() -> None:
    """Patches as long as a season, which the map across them repeats."""
    config = dataclasses.replace(PLAIN, context_length=20, horizon=8, quantiles=(0.5,))
    torch.manual_seed(0)
    series = torch.randn(300, 4).repeat(1, 7)
    model = XLSTMForecastModel(config)
    model.start_from(series[:, :20], series[:, 20:], (series[:9, :20], series[:9, 20:]))
    torch.testing.assert_close(model.across.weight, torch.full((2, 5), 0.2), atol=1e-2, rtol=0.0)


def test_it_learns_a_sine_pushed_by_covariates() -> None:
    config = dataclasses.replace(CONFIG, num_past=0, num_static=0, pattern="s")
    torch.manual_seed(0)
    steps = torch.arange(26.0)
    push = (torch.rand(256, 26, 1) < 0.3).float()
    series = torch.sin(0.6 * steps + 6 * torch.rand(256, 1)) + 2 * push[..., 0]
    target, truth = series[:, :19], series[:, 19:]
    model = XLSTMForecastModel(config)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(120):
        optimizer.zero_grad()
        model.loss(target, truth, future=push).backward()
        optimizer.step()
    model.eval()
    blind = model.loss(target, truth)
    assert model.loss(target, truth, future=push) < 0.5 * blind


def test_it_runs_in_float64() -> None:
    model = drawn(CONFIG)
    target, extra = torch.randn(2, 19), covariates(2, 19)
    wide = model(target, **extra)
    model = model.double()
    exact = model(target.double(), **{name: value.double() for name, value in extra.items()})
    assert exact.dtype == torch.float64
    torch.testing.assert_close(wide.double(), exact, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("horizon", 0, "horizon must be at least 1, got 0"),
        ("context_length", -1, "context_length must be at least 1"),
        ("patch_length", 0, "patch_length must be at least 1"),
        ("num_past", -1, "num_past must not be negative"),
        ("quantiles", (), "quantiles must increase"),
        ("quantiles", (0.5, 0.1), "quantiles must increase"),
        ("quantiles", (0.5, 0.5), "quantiles must increase"),
        ("quantiles", (0.0, 0.5), "between 0 and 1"),
        ("quantiles", (0.5, 1.0), "between 0 and 1"),
        ("pattern", "x", "letter 'x'"),
        ("dropout", 1.0, "dropout must be"),
        ("num_heads", 0, "num_heads must be at least 1"),
    ],
)
def test_a_bad_field_is_refused(field: str, value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(CONFIG, **{field: value})


def test_a_config_is_the_same_from_its_json() -> None:
    fields = dataclasses.asdict(CONFIG) | {"quantiles": list(CONFIG.quantiles)}
    assert ForecasterConfig(**fields) == CONFIG


@pytest.mark.parametrize(
    ("config", "inputs", "message"),
    [
        (PLAIN, {"target": torch.randn(2, 0)}, "size T is 0"),
        (PLAIN, {"target": torch.randn(2, 3, 1)}, "target must have shape"),
        (PLAIN, {"target": torch.ones(2, 3, dtype=torch.long)}, "floating point"),
        (PLAIN, {"past": torch.randn(2, 9, 1)}, "num_past is 0"),
        (CONFIG, {"past": torch.randn(2, 9, 1)}, "past must have shape"),
        (CONFIG, {"future": torch.randn(2, 9, 1)}, "future must have shape"),
        (CONFIG, {"static": torch.randn(3, 3)}, "static must have shape"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(
    config: ForecasterConfig, inputs: dict[str, Tensor], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        XLSTMForecastModel(config)(**{"target": torch.randn(2, 9)} | inputs)


def test_steps_are_filled_flagged_and_gathered() -> None:
    nan = math.nan
    window = last_steps(torch.tensor([[9.0, nan, 1.0, nan, 2.0, nan]]), 5)
    assert fill(window).tolist() == [[1, 1, 1, 2, 2]]
    assert fill(torch.full((1, 3), nan)).tolist() == [[0, 0, 0]]
    assert flag(torch.tensor([[3.0, nan]])).tolist() == [[3, 0, 1, 0]]
    assert to_patches(torch.arange(1.0, 8)[None, :, None], 3, 2).tolist() == [
        [[1, 2], [3, 4], [5, 6], [7, 0]]
    ]


def test_ridge_is_the_solution_of_its_equations() -> None:
    torch.manual_seed(0)
    x, y = torch.randn(50, 6, dtype=torch.float64), torch.randn(50, 3, dtype=torch.float64)
    weak, strong = ridge([(x[:20], y[:20]), (x[20:], y[20:])], (1e-3, 0.5))
    for weight, strength in ((weak, 1e-3), (strong, 0.5)):
        slope = x.mT @ (x @ weight.mT - y) + strength * x.square().sum() / 6 * weight.mT
        torch.testing.assert_close(slope, torch.zeros_like(slope))

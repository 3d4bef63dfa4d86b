"""The forecaster inside sktime."""

import warnings

import numpy as np
import pandas as pd
import pytest

with warnings.catch_warnings():  # theirs are not ours
    warnings.simplefilter("ignore")
    pytest.importorskip("sktime", reason="sktime is not installed: it needs pandas before 3")
    from sktime.utils.estimator_checks import check_estimator

    from exlstm.adapters.sktime import ExlstmForecaster

pytestmark = pytest.mark.filterwarnings("ignore")

SMALL = {"d_model": 8, "num_heads": 2, "max_epochs": 2, "windows_per_epoch": 64, "random_state": 0}


def test_it_passes_sktimes_own_checks():
    results = check_estimator(ExlstmForecaster, raise_exceptions=False, verbose=False)
    failed = {name: result for name, result in results.items() if result != "PASSED"}
    assert not failed
    assert len(results) > 100


def test_an_update_is_the_whole_history():
    y = pd.Series(np.sin(np.arange(90) / 4), pd.period_range("2020", periods=90, freq="M"))
    one = ExlstmForecaster(**SMALL, context_length=24).fit(y[:80], fh=[1, 3])
    before = one.predict()
    one.update(y[80:], update_params=False)
    after = one.predict()
    assert after.index.tolist() == [y.index[-1] + 1, y.index[-1] + 3]
    assert not np.allclose(before, after)
    whole = one.forecaster_.predict(y.to_numpy())
    np.testing.assert_array_equal(after, whole[[0, 2]])


def test_steps_further_than_the_fit_are_refused():
    forecaster = ExlstmForecaster(**SMALL).fit(pd.Series(np.arange(60.0) % 7), fh=[1, 2])
    with pytest.raises(ValueError, match="fh"):
        forecaster.predict(fh=[1, 5])

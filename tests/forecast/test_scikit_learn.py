"""What scikit-learn asks of an estimator, and what it costs to import."""

import subprocess
import sys

import pytest
from sklearn.utils.estimator_checks import check_estimator
from small_forecasts import SMALL

from exlstm.forecast import XLSTMForecaster

SHORT = "a series of two steps has nothing to learn from; the check's rows have two features"
SHAPE = "rows are series of any lengths, columns are time: there is no number of features"
SPARSE = "sparse input is refused, by a message of ours"

DOES_NOT_APPLY = {
    "check_estimators_overwrite_params": SHORT,
    "check_estimators_fit_returns_self": SHORT,
    "check_readonly_memmap_input": SHORT,
    "check_fit_idempotent": SHORT,
    "check_fit_check_is_fitted": SHORT,
    "check_n_features_in": SHAPE,
    "check_n_features_in_after_fitting": SHAPE,
    "check_fit2d_1feature": SHAPE,
    "check_estimators_empty_data_messages": SHAPE,
    "check_fit1d": "an array (time,) is one series",
    "check_fit2d_predict1d": "an array (time,) is one series",
    "check_complex_data": "complex numbers are refused, by a message of ours",
    "check_dtype_object": "arrays of objects are refused",
    "check_estimator_sparse_tag": SPARSE,
    "check_estimator_sparse_array": SPARSE,
    "check_estimator_sparse_matrix": SPARSE,
}


def test_it_passes_the_checks_that_apply():
    settings = {"max_epochs": 1, "horizon": 1, "validation_windows": 0, "context_length": 4}
    forecaster = XLSTMForecaster(**SMALL | settings | {"patch_length": None})
    results = check_estimator(
        forecaster, expected_failed_checks=DOES_NOT_APPLY, on_fail=None, on_skip=None
    )
    found = {result["check_name"]: result["status"] for result in results}
    assert [name for name, status in found.items() if status == "failed"] == []
    assert {name for name, status in found.items() if status == "xfail"} == set(DOES_NOT_APPLY)
    assert sum(status == "passed" for status in found.values()) >= 20


def test_pandas_comes_with_the_first_use():
    code = (
        "import sys, exlstm, exlstm.forecast.command\n"
        "print({'pandas', 'sklearn'} & set(sys.modules), 'XLSTMForecaster' in dir(exlstm.forecast))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set() True\n"


@pytest.mark.parametrize("package", ["pandas", "sklearn"])
def test_what_is_not_installed_is_named(package):
    code = (
        f"import sys; sys.modules[{package!r}] = None\n"
        "from exlstm.forecast.command import ForecastArguments, forecast_command\n"
        "try: forecast_command(ForecastArguments(data='data.csv'))\n"
        "except ValueError as error: print(error)\n"
        "from exlstm.forecast import XLSTMForecaster"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "needs " + package + ": pip install 'exlstm[ts]'" in done.stdout
    last = done.stderr.splitlines()[-1]
    assert last.startswith("ModuleNotFoundError: exlstm.forecast needs " + package)

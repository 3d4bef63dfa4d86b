"""What comes in as arrays, lists or tables, in one form."""

import numpy as np
import pandas as pd
import pytest

from exlstm.classify import Record, records_from_frame
from exlstm.classify.encoding import Encoding
from exlstm.classify.records import pad


def test_a_table_becomes_records_in_the_order_they_appear():
    frame = pd.DataFrame(
        {
            "patient": ["b", "a", "b"],
            "day": pd.to_datetime(["2020-01-01", "2020-03-01", "2020-01-03"]),
            "diagnosis": ["I10", None, "E11"],
            "sodium": [140.0, np.nan, 135.0],
        }
    )
    records = records_from_frame(frame, id="patient", time="day", code="diagnosis")
    assert list(records) == ["b", "a"]
    padded = pad(list(records.values()))
    assert padded.lengths.tolist() == [2, 1]
    assert padded.codes.tolist() == [["I10", "E11"], [None, None]]
    np.testing.assert_array_equal(padded.values[..., 0], [[140, 135], [np.nan, np.nan]])
    assert np.diff(padded.times[0]).tolist() == [2 * 86400]
    without = records_from_frame(frame, id="patient", time=None, channels=["sodium"])
    assert without["b"].times is without["b"].codes is None


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"id": "who"}, "frame has no column 'who'; it has"),
        ({"channels": ["z"]}, "frame has no column 'z'"),
        ({"channels": []}, "neither channels nor a column of codes"),
    ],
)
def test_tables_without_what_is_asked_are_refused(options, said):
    frame = pd.DataFrame({"id": [1.0], "time": [0.0], "x": [2.0]})
    with pytest.raises(ValueError, match=said):
        records_from_frame(frame, **options)
    with pytest.raises(ValueError, match="column 'id' has missing ids"):
        records_from_frame(frame.assign(id=np.nan))


@pytest.mark.parametrize(
    ("X", "said"),
    [
        ("text", "X must be an array .*got str"),
        (np.ones((2, 2, 2, 2)), r"got ndarray of shape \(2, 2, 2, 2\)"),
        ([], "X holds no record, at least 1 is needed"),
        ([[1.0], []], "record 1 is empty, at least 1 step is needed"),
        ([[1.0], [np.nan, np.nan]], "record 1 has no value: all 2 are NaN"),
        ([[1.0], ["a"]], "record 1 must hold numbers, got <U1"),
        ([[1.0], [1j]], "record 1 must hold numbers, got complex128"),
        ([[np.inf]], "record 0 has an infinite value; a missing one is NaN"),
        ([np.ones((1, 1, 1))], r"record 0 must be \(T,\) or \(T, C\), got \(1, 1, 1\)"),
        ([[[1.0], [1.0, 2.0]]], "record 0 is ragged"),
        ([np.ones((3, 2)), np.ones(3)], "record 0 has 2 channels, but record 1 has 1 channel"),
        ([Record()], "record 0 has neither values nor codes"),
        ([Record([1.0, 2.0], times=[0.0])], "record 0 has 2 steps but 1 times"),
        ([Record([1.0, 2.0], codes=["a"])], "record 0 has 2 steps but 1 codes"),
        (
            [Record([1.0] * 3, times=[0.0, 4.0, 3.0])],
            "times of record 0 go backwards at step 2: 3 after 4",
        ),
        ([Record([1.0], times=[np.nan])], "times of record 0 must be finite, got nan"),
        ([Record([1.0], times=["noon"])], "must be .* numbers or dates, got <U4"),
        ([Record(codes=[1.5])], "codes of record 0 must be whole numbers or strings, got 1.5"),
        ([Record(codes=["a"]), Record(codes=["a"], times=[0])], "has codes, but record 1 has t"),
    ],
)  # fmt: skip
def test_what_is_no_record_is_named(X, said):
    with pytest.raises(ValueError, match=said):
        pad(X)


def test_numbers_are_standardised_and_what_is_missing_is_marked():
    padded = pad([[1.0, np.nan, 3.0], [5.0]])
    encoding = Encoding.of(padded)
    assert (encoding.mean, encoding.time_scale, encoding.vocabulary) == ((3.0,), None, None)
    values = encoding.encode(padded, "error").values
    # Inputs of the network are float32, here and below.
    np.testing.assert_allclose(values[0, :, 0] * encoding.scale[0], [-2, 0, 0], atol=1e-6)
    assert values[0, :, 1].tolist() == [0, 1, 0]
    constant = Encoding.of(pad([[0.1, 0.1, 0.1]]))
    assert constant.scale == (1.0,)


def test_time_differences_are_an_input_and_the_first_is_zero():
    padded = pad([Record([1.0, 2.0, 3.0], times=[10.0, 12.0, 12.0]), Record([1.0], times=[7.0])])
    encoding = Encoding.of(padded)
    assert encoding.time_scale == 2.0
    assert encoding.names == ["channel 0", "time"]
    times = encoding.encode(padded, "error").values[..., 2]
    np.testing.assert_allclose(times, [[0, np.log(2), 0], [0, 0, 0]], rtol=1e-6)


def test_codes_are_numbered_from_one():
    padded = pad([Record(codes=["b", None, 7]), Record(codes=["a"])])
    encoding = Encoding.of(padded)
    assert encoding.vocabulary == (7, "a", "b")
    assert encoding.encode(padded, "error").codes.tolist() == [[3, 0, 1], [2, 0, 0]]
    with pytest.raises(ValueError, match="codes are missing at all steps of all records"):
        Encoding.of(pad([Record(codes=[None])]))

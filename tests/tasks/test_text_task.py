import pickle
import random

import numpy as np
import pytest

from exlstm.data.text import load_split
from exlstm.experiments import find_task
from exlstm.tasks.text import Text


@pytest.fixture
def folder(tmp_path):
    """Files of one letter each, so that a window tells which file it is from."""
    for number, letter in enumerate("abcdefghijklmnopqrstuvwxyz"):
        (tmp_path / f"{letter}.txt").write_text(letter * (20 + number))
    return tmp_path


def letters(batch):
    return {chr(token - 1) for token in np.unique(batch.inputs) if token}


def test_windows_of_held_out_files_are_never_in_training(folder):
    task = find_task(f"text,data={folder}")
    split = load_split(str(folder))
    for test, documents in ((False, split.train), (True, split.validation)):
        batches = [task.batch(seed, 0, 256, (10, 10), test=test) for seed in range(4)]
        drawn = set().union(*map(letters, batches))
        assert drawn == {document.text[0] for document in documents}
        for batch in batches:  # and no window goes over the end of a file
            assert (batch.inputs == batch.inputs[:, :1]).all()
            assert (batch.targets == batch.inputs).all()


def test_the_answer_is_the_next_byte(tmp_path):
    text = bytes(range(1, 128)).decode()
    (tmp_path / "a.txt").write_text(text, newline="")
    batch = Text(str(tmp_path)).batch(0, 0, 64, (3, 8))
    assert batch.inputs.shape[1] <= 8
    assert batch.asked.sum(1).tolist() == batch.lengths.tolist()
    assert (batch.targets[batch.asked] == batch.inputs[batch.asked] + 1).all()
    assert (batch.inputs[~batch.asked] == 0).all()
    assert (batch.targets[~batch.asked] == 0).all()
    assert batch.inputs[batch.asked].min() >= 2  # byte b is token 1 + b


def test_every_window_is_as_likely_as_any_other(tmp_path):
    (tmp_path / "a.txt").write_text("a" * 9)  # 4 windows of 5 and the byte behind
    (tmp_path / "b.txt").write_text("b" * 17)  # 12
    (tmp_path / "c.txt").write_text("c" * 5)  # none
    (tmp_path / "d.txt").write_text("d" * 5)
    split = load_split(str(tmp_path))
    assert len(split.train) == 3
    batch = Text(str(tmp_path)).batch(0, 0, 4000, (5, 5))
    places = {doc.text[0]: max(0, len(doc.text) - 5) for doc in split.train}
    for letter, number in places.items():
        share = (batch.inputs[:, 0] == ord(letter) + 1).mean()
        assert share == pytest.approx(number / sum(places.values()), abs=0.03)


def test_it_is_a_function_of_its_arguments_also_in_another_process(folder):
    task = Text(str(folder))
    again = pickle.loads(pickle.dumps(task))
    for test in (False, True):
        one, other = (each.batch(1, 2, 8, (4, 9), test=test) for each in (task, again))
        assert (one.inputs == other.inputs).all()
        assert (one.lengths == other.lengths).all()
    assert not np.array_equal(
        task.batch(1, 3, 8, (4, 4)).inputs, task.batch(1, 2, 8, (4, 4)).inputs
    )


def test_without_a_text_it_is_the_standard_library():
    batch = find_task("text").batch(0, 0, 4, (50, 50))
    assert batch.inputs.shape == (4, 50)
    assert batch.inputs.min() >= 1
    assert batch.inputs.max() <= 256
    assert Text().vocab_size == 257


def test_what_is_not_possible_is_said(tmp_path):
    with pytest.raises(ValueError, match="there is no"):
        find_task(f"text,data={tmp_path / 'none.txt'}").batch(0, 0, 1, (4, 4))
    (tmp_path / "a.txt").write_text("short")
    with pytest.raises(ValueError, match="no document has 301 bytes"):
        Text(str(tmp_path)).batch(0, 0, 1, (300, 300))


def test_the_end_of_a_single_file_is_left_out(tmp_path):
    text = "".join(random.Random(0).choices("abcdefgh", k=2000))  # no 20 letters come twice
    (tmp_path / "a.txt").write_text(text)
    task = Text(str(tmp_path / "a.txt"), left_out=0.1)
    (whole,) = task.segments(199, 100)
    assert bytes(whole.astype(np.uint8) - 1).decode() == text[1800:]
    for test, first, last in ((False, 0, 1710), (True, 1710, 1800)):  # 5 % of the rest
        rows = task.batch(0, 0, 3000, (20, 20), test=test).inputs.astype(np.uint8) - 1
        places = {text.index(bytes(row).decode()) for row in rows}
        assert min(places) >= first
        assert last - 5 - 21 <= max(places) <= last - 21


def test_whole_files_are_left_out_of_training_and_validation(folder):
    task = find_task(f"text,data={folder},left_out=0.3")
    split = [
        set().union(*(letters(task.batch(seed, 0, 256, (10, 10), test=test)) for seed in range(4)))
        for test in (False, True)
    ]
    left = {chr(token - 1) for token in np.unique(task.segments(10, 10**6))}
    assert left
    assert len(left | split[0] | split[1]) == 26 == sum(map(len, (left, *split)))


def test_segments_lie_end_to_end_and_are_spread_evenly(tmp_path):
    (tmp_path / "a.txt").write_text(
        "".join(map(chr, range(32, 127))) * 4
    )  # 380 bytes, 190 left out
    task = Text(str(tmp_path), left_out=0.5)
    found = task.segments(10, 100)
    assert found.shape == (18, 11)  # and 9 bytes that fill no segment
    assert (found[1:, 0] == found[:-1, -1]).all()
    assert (task.segments(10, 3) == found[[0, 8, 17]]).all()
    assert task.segments(189, 3).shape == (1, 190)
    with pytest.raises(ValueError, match="no document that is left out has 191 bytes"):
        task.segments(190, 3)


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_only_a_share_can_be_left_out(share):
    with pytest.raises(ValueError, match="left_out must be a share"):
        Text(left_out=share)


def test_something_has_to_remain_to_learn_from(tmp_path):
    for letter in "ab":
        (tmp_path / f"{letter}.txt").write_text("some text")
    with pytest.raises(ValueError, match="are all of them"):
        Text(str(tmp_path), left_out=0.999).batch(0, 0, 1, (4, 4))

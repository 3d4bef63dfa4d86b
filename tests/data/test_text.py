"""Which documents a corpus has, and how it is split."""

import re

import pytest

from exlstm.data import Document, find_documents, load_split, read_documents, split_documents


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "b" / "deep").mkdir(parents=True)
    (tmp_path / ".hidden").mkdir()
    for name in ("z.txt", "a.md", "b/deep/c.txt", "b/a.txt", ".hidden/no.txt", ".no.txt"):
        (tmp_path / name).write_text(f"text of {name}\n")
    (tmp_path / "empty.txt").touch()
    return tmp_path


def names(source):
    return [document.name for document in read_documents(source)]


def test_a_folder_gives_its_visible_files_in_order(folder):
    assert names(folder) == ["a.md", "b/a.txt", "b/deep/c.txt", "z.txt"]


def test_a_glob_gives_what_matches(folder):
    assert names(f"{folder}/**/*.txt") == ["b/a.txt", "b/deep/c.txt", "z.txt"]


def test_a_relative_glob_starts_here(folder, monkeypatch):
    monkeypatch.chdir(folder)
    assert names("*.txt") == ["z.txt"]
    assert names("b/*.txt") == ["a.txt"]


def test_names_do_not_depend_on_where_the_corpus_lies(folder, monkeypatch):
    before = read_documents(folder)
    monkeypatch.chdir(folder.parent)
    assert read_documents(folder.name) == before


def test_one_file(folder):
    assert read_documents(folder / "z.txt") == [Document("z.txt", "text of z.txt\n")]


def test_a_file_whose_name_looks_like_a_glob(tmp_path):
    (tmp_path / "a[1].txt").write_text("x")
    assert names(tmp_path / "a[1].txt") == ["a[1].txt"]


def test_the_default_is_the_standard_library_without_its_tests():
    paths = find_documents(None)
    assert len(paths) > 300
    assert not any({"test", "tests", "site-packages"} & set(path.parts) for path in paths)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("missing.txt", "data: there is no .*missing.txt; give a file, a folder or a glob"),
        ("*.csv", "data: nothing matches .*csv; try a glob"),
        ("nothing", "data: no files in .*nothing"),
        ("empty.txt", "data: .*empty.txt is empty"),
    ],
)
def test_mistakes_are_one_line_with_the_value(folder, source, message):
    (folder / "nothing").mkdir()
    with pytest.raises(ValueError, match=message) as caught:
        find_documents(folder / source)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_utf8_is_named_with_the_byte(folder):
    (folder / "b" / "latin.txt").write_bytes(b"abc\xe9!")
    with pytest.raises(ValueError, match=r"latin.txt is not UTF-8 at byte 3; leave .* glob"):
        read_documents(folder)


def test_several_documents_are_split_whole_and_a_new_one_moves_no_other():
    documents = [Document(f"{n}.txt", str(n)) for n in range(400)]
    split = split_documents(documents)
    assert sorted(split.train + split.validation) == sorted(documents)
    assert 8 <= len(split.validation) <= 32
    more = split_documents([*documents, Document("new.txt", "new")])
    assert set(split.validation) <= set(more.validation)
    assert set(split.train) <= set(more.train)


@pytest.mark.parametrize("count", range(2, 12))
def test_neither_part_is_ever_empty(count):
    split = split_documents([Document(f"chapter {n}", "x") for n in range(count)])
    assert split.train
    assert split.validation


def test_a_single_document_gives_its_end():
    text = "".join(map(chr, range(1000, 2000)))
    split = split_documents([Document("a", text)])
    assert [split.train[0].text, split.validation[0].text] == [text[:950], text[950:]]


def test_own_validation_data_leaves_the_data_whole(folder):
    split = load_split(folder / "b", folder / "z.txt")
    assert [document.name for document in split.train] == ["a.txt", "deep/c.txt"]
    assert [document.name for document in split.validation] == ["z.txt"]


def test_validation_data_in_the_training_data_is_refused(folder):
    expected = re.escape(f"val_data: {folder / 'z.txt'} is in the training data too")
    with pytest.raises(ValueError, match=expected):
        load_split(folder, folder / "z.txt")

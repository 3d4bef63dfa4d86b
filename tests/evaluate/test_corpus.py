from pathlib import Path

import numpy as np
import pytest

from exlstm.data import ByteTokenizer, Document, write_token_files
from exlstm.evaluate.corpus import domain_of_tokens, find_domains, read_domains


def write(root: Path, files: dict[str, str | bytes]) -> str:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(root)


def texts(data: str, file: Path) -> dict[str, list[str]]:
    domains = read_domains(data, ByteTokenizer(), file)
    for domain in domains:
        assert all(document[:1].tolist() == [256] for document in domain.documents)
        assert domain.num_bytes == sum(len(document) - 1 for document in domain.documents)
    return {d.name: [ByteTokenizer().decode(each[:]) for each in d.documents] for d in domains}


def test_folders_and_files_are_domains(tmp_path: Path) -> None:
    data = write(
        tmp_path / "data",
        {
            "b/one.txt": "eins",
            "b/deep/two.txt": "zwei",
            "b/empty.txt": "",
            "a.jsonl": '{"text": "ä"}\n\n{"text": ""}\n{"text": "third"}\n',
            "b.txt": "drei",
            ".hidden/x.txt": "no",
        },
    )
    assert texts(data, tmp_path / "tokens") == {
        "a.jsonl": ["ä", "third"],
        "b": ["zwei", "eins"],
        "b.txt": ["drei"],
    }
    assert texts(f"{data}/b/one.txt", tmp_path / "tokens") == {"one.txt": ["eins"]}
    assert texts(f"{data}/**/*.txt", tmp_path / "tokens") == {
        "b": ["zwei", "eins"],
        "b.txt": ["drei"],
    }


def test_a_text_longer_than_what_is_read_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("exlstm.evaluate.corpus._SPAN", 300_000)
    text = "".join(f"line {n}\n" for n in range(100_000))
    data = write(tmp_path / "data", {"long.txt": text, "short.txt": "end"})
    seen: list[int] = []
    domains = read_domains(data, ByteTokenizer(), tmp_path / "tokens", progress=seen.append)
    ((long,), (short,)) = (domain.documents for domain in domains)
    assert bytes(long[1:].astype(np.uint8)).decode() == text
    assert long[500_001:500_006].tolist() == list(text.encode()[500_000:500_005])
    assert short[:].tolist() == [256, *b"end"]
    assert sum(seen) == len(text) + 3
    assert len(seen) > 3


def test_the_documents_of_a_token_file_are_a_domain(tmp_path: Path) -> None:
    documents = [Document("a", "hi"), Document("b", "!")]
    file = write_token_files(tmp_path, {"val": documents}, ByteTokenizer())["val"]
    domain = domain_of_tokens("validation", file)
    assert [document[:].tolist() for document in domain.documents] == [[256, 104, 105], [256, 33]]
    assert domain.num_bytes == 3


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "has no domains; give a folder"),
        ({".hidden": "x"}, "has no domains; give a folder"),
        ({"a.txt": "x", "b/c.txt": ""}, "the domain b is empty"),
        ({"a.txt": "x", "b.txt": ""}, "the domain b.txt is empty"),
        ({"a.txt": "x", "b.jsonl": '{"text": ""}\n'}, "the domain b.jsonl is empty"),
        ({"a.txt": "x", "b/c.txt": b"text \xff"}, "c.txt, byte 5: not UTF-8"),
        ({"a.jsonl": "{}\n"}, "there is no field 'text'"),
        ({"a.jsonl": "text\n"}, "this line is no JSON"),
    ],
)
def test_what_cannot_be_read_is_named(
    tmp_path: Path, files: dict[str, str | bytes], message: str
) -> None:
    (tmp_path / "data").mkdir()
    with pytest.raises(ValueError, match=message):
        read_domains(write(tmp_path / "data", files), ByteTokenizer(), tmp_path / "tokens")


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="data: there is no"):
        find_domains(str(tmp_path / "nowhere"))

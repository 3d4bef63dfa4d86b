"""Real data for sequence models: text corpora, tokenizers, token files."""

from exlstm.data.text import (
    Document,
    Split,
    find_documents,
    load_split,
    read_documents,
    split_documents,
)
from exlstm.data.token_file import (
    TokenFile,
    Windows,
    corpus_digest,
    cut,
    fixed_windows,
    open_token_file,
    write_token_file,
)
from exlstm.data.tokenizer import (
    ByteTokenizer,
    FileTokenizer,
    Tokenizer,
    load_tokenizer,
    stream_text,
)

__all__ = [
    "ByteTokenizer",
    "Document",
    "FileTokenizer",
    "Split",
    "TokenFile",
    "Tokenizer",
    "Windows",
    "corpus_digest",
    "cut",
    "find_documents",
    "fixed_windows",
    "load_split",
    "load_tokenizer",
    "open_token_file",
    "read_documents",
    "split_documents",
    "stream_text",
    "write_token_file",
]

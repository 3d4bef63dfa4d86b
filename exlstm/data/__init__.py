"""Real data for sequence models: text corpora, tokenizers, token files."""

from exlstm.data.lanes import Lanes
from exlstm.data.mixture import Mixture, join_token_files, whole_weights
from exlstm.data.preparation import is_prepared, prepare
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
    corpus_digest,
    open_token_file,
    open_tokenizer,
    verify_token_files,
    write_token_files,
)
from exlstm.data.tokenizer import (
    ByteTokenizer,
    FileTokenizer,
    Tokenizer,
    load_tokenizer,
    stream_text,
)
from exlstm.data.windows import Windows, cut, fixed_windows

__all__ = [
    "ByteTokenizer",
    "Document",
    "FileTokenizer",
    "Lanes",
    "Mixture",
    "Split",
    "TokenFile",
    "Tokenizer",
    "Windows",
    "corpus_digest",
    "cut",
    "find_documents",
    "fixed_windows",
    "is_prepared",
    "join_token_files",
    "load_split",
    "load_tokenizer",
    "open_token_file",
    "open_tokenizer",
    "prepare",
    "read_documents",
    "split_documents",
    "stream_text",
    "verify_token_files",
    "whole_weights",
    "write_token_files",
]

"""The corpus: documents from a generator, the Hugging Face Hub, local files or URLs."""

from lmlib.corpus.params import CorpusParams
from lmlib.corpus.texts import Text, read_texts
from lmlib.corpus.write import write_corpus

__all__ = ["CorpusParams", "Text", "read_texts", "write_corpus"]

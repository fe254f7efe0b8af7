"""Stage `train_tokenizer`: what it says of its vocabulary. (It runs in test_repro.py.)"""

import pytest

from lmlib.tokenizer import train_bpe
from stages.train_tokenizer import warn_if_smaller


def test_a_vocabulary_that_stays_small_is_explained(
    tmp_path_factory: pytest.TempPathFactory, caplog: pytest.LogCaptureFixture
) -> None:
    """ "aa bb" has the words "aa" and " bb": three merges, whatever was asked for."""
    text = tmp_path_factory.mktemp("text") / "text.txt"
    text.write_text("aa bb", encoding="utf-8")
    vocab, _ = train_bpe(text, 5000, None)
    warn_if_smaller(len(vocab), 5000)
    assert caplog.messages == [
        "the vocabulary has 259 tokens, fewer than the 5,000 of tokenizer.vocab_size: each word of "
        "the training text is one token by now, so no pair is left to merge"
    ]
    warn_if_smaller(5000, 5000)
    assert len(caplog.messages) == 1

"""Stage `encode`: turn the texts into files of token ids.

Params: none. Reads: data/raw/, models/tokenizer/. Writes: data/tokens/.
Run:    dvc repro encode   (by hand, from the repository root: python -m stages.encode)
"""

from pathlib import Path

import numpy as np

from lmlib.corpus import Text, read_texts
from lmlib.digests import write_digests
from lmlib.files import replacing, sha256_file
from lmlib.monitoring.progress import progress_bars
from lmlib.separator import separator_id
from lmlib.tokenizer import Tokenizer
from lmlib.tokens import TokenInfo, count_documents, read_tokens, write_token_info
from stages.cli import remedy, run_stage
from stages.paths import RAW, TOKENIZER, TRAIN_TOKENS, VALID_TOKENS, partial_folder, root
from stages.stage_run import stage_run


def main() -> None:
    """Encode the training and the validation text; write next to each a record of its source."""
    with remedy():
        tokenizer = Tokenizer.load(TOKENIZER)
    tokenizer_sha256 = sha256_file(TOKENIZER / "tokenizer.json")
    separator = separator_id(tokenizer.special_ids)
    with stage_run("encode", makes_model=False) as run:
        TRAIN_TOKENS.parent.mkdir(parents=True, exist_ok=True)
        for name, tokens in (("train", TRAIN_TOKENS), ("valid", VALID_TOKENS)):
            with remedy():
                texts = read_texts(RAW, name, root())
            source_bytes = encode_texts(tokenizer, texts, tokens)
            if not source_bytes:
                raise ValueError(
                    f"corpus: no document of the files is for {name}: dividing them by a hash "
                    "leaves nothing; name validation files in corpus.valid"
                )
            count = len(read_tokens(tokens))
            info = TokenInfo(
                tokens=count,
                vocab_size=tokenizer.vocab_size,
                tokenizer_sha256=tokenizer_sha256,
                source_bytes=source_bytes,
                documents=count_documents(
                    read_tokens(tokens),
                    separator,
                    {token_id for token_id, token in tokenizer.vocab.items() if not token.strip()},
                ),
                separator_id=separator,
            )
            write_token_info(tokens, info)
            numbers = {
                "tokens": info.tokens,
                "bytes": info.source_bytes,
                "documents": info.documents,
            }
            run.summary({f"{name}/{key}": value for key, value in numbers.items()})
        files = [f"{name}.{kind}" for name in ("train", "valid") for kind in ("npy", "json")]
        write_digests(TRAIN_TOKENS.parent, *files)


def encode_texts(tokenizer: Tokenizer, texts: list[Text], tokens: Path) -> int:
    """Encode texts, one after the other, as if they were one file; return their bytes."""
    num_bytes, parts = 0, []
    for number, text in enumerate(texts):
        part = tokens if len(texts) == 1 else tokens.with_suffix(f".{number}.npy")
        with text.open(partial_folder()) as path, progress_bars({"encode": "B"}) as on_progress:
            tokenizer.encode_file(path, part, on_progress=on_progress)
            num_bytes += path.stat().st_size + len(text.ending)
        parts.append((part, tokenizer.encode(text.ending)))
    if len(texts) > 1:
        arrays = [read_tokens(part) for part, _ in parts]
        shape = (sum(map(len, arrays)) + sum(len(ending) for _, ending in parts),)
        with replacing(tokens) as (whole,):
            output = np.lib.format.open_memmap(whole, "w+", tokenizer.dtype, shape)
            done = 0
            for array, (_, ending) in zip(arrays, parts, strict=True):
                output[done : done + len(array)] = array
                output[done + len(array) : done + len(array) + len(ending)] = ending
                done += len(array) + len(ending)
            output.flush()
        for part, _ in parts:
            part.unlink()
    return num_bytes


if __name__ == "__main__":
    run_stage(main)

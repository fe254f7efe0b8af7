"""Stage `encode`: turn the texts into files of token ids.

Params: none. Reads: data/raw/, models/tokenizer/. Writes: data/tokens/.
Run:    dvc repro encode   (by hand, from the repository root: python -m stages.encode)
"""

from lmlib.digests import write_digests
from lmlib.files import sha256_file
from lmlib.monitoring.progress import progress_bars
from lmlib.separator import separator_id
from lmlib.tokenizer import Tokenizer
from lmlib.tokens import TokenInfo, count_documents, read_tokens, write_token_info
from stages.cli import remedy, run_stage
from stages.paths import RAW_TRAIN, RAW_VALID, TOKENIZER, TRAIN_TOKENS, VALID_TOKENS
from stages.stage_run import stage_run


def main() -> None:
    """Encode the training and the validation text; write next to each a record of its source."""
    with remedy():
        tokenizer = Tokenizer.load(TOKENIZER)
    tokenizer_sha256 = sha256_file(TOKENIZER / "tokenizer.json")
    separator = separator_id(tokenizer.special_ids)
    with stage_run("encode", makes_model=False) as run:
        TRAIN_TOKENS.parent.mkdir(parents=True, exist_ok=True)
        for name, text, tokens in (
            ("train", RAW_TRAIN, TRAIN_TOKENS),
            ("valid", RAW_VALID, VALID_TOKENS),
        ):
            with progress_bars({"encode": "B"}) as on_progress:
                count = tokenizer.encode_file(text, tokens, on_progress=on_progress)
            info = TokenInfo(
                tokens=count,
                vocab_size=tokenizer.vocab_size,
                tokenizer_sha256=tokenizer_sha256,
                source_bytes=text.stat().st_size,
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


if __name__ == "__main__":
    run_stage(main)

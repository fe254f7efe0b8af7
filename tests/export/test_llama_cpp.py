"""The GGUF in llama.cpp, by its usual Python interface: the same ids and greedy tokens.

llama-cpp-python is in the environment of the benchmarks' peers, because it is compiled when it is
installed.
"""

import json
import subprocess
from pathlib import Path

import pytest

from lmlib.export import write_gguf
from lmlib.sampling import SamplingParams, generate
from lmlib.separator import SEPARATOR
from tests.benchmarks.test_bench_sample import PEERS, needs_llama_cpp
from tests.export.conftest import SHAPES, TEXT, make_model, make_tokenizer

pytestmark = [pytest.mark.slow, needs_llama_cpp]
NEW_TOKENS = 16
PROMPTS = ["then the", "It's 1984: the", "naïve 中", "\n\n She"]
SCRIPT = """
import itertools, json, sys
from llama_cpp import Llama

path, texts, new_tokens = json.loads(sys.argv[1])
llama = Llama(path, n_ctx=0, type_k=0, type_v=0, verbose=False)  # 0: float32, and all the context
ids = [llama.tokenize(text.encode(), add_bos=False, special=True) for text in texts]
# not create_completion, which adds tokens to a text that ends within a character
greedy = [list(itertools.islice(llama.generate(each, temp=0.0), new_tokens)) for each in ids[1:]]
pieces = [llama.detokenize(each, special=True).hex() for each in ids]
print(json.dumps({"ids": ids, "greedy": greedy, "bytes": pieces}))
"""


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "-".join(map(str, shape.values())))
def test_ids_and_greedy_tokens_are_ours(shape: dict, tmp_path: Path) -> None:
    tokenizer = make_tokenizer()
    model = make_model(tokenizer.vocab_size, **shape)
    write_gguf(tmp_path / "model.gguf", model, tokenizer, "tiny")
    texts = [f"{SEPARATOR}{TEXT}{SEPARATOR}a", *(SEPARATOR + prompt for prompt in PROMPTS)]
    arguments = json.dumps([str(tmp_path / "model.gguf"), texts, NEW_TOKENS])
    done = subprocess.run(
        [PEERS, "-c", SCRIPT, arguments], capture_output=True, text=True, check=True
    )
    theirs = json.loads(done.stdout.splitlines()[-1])

    ids = [tokenizer.encode(text) for text in texts]
    assert theirs["ids"] == ids
    assert theirs["bytes"] == [text.encode().hex() for text in texts]
    params = SamplingParams(
        prompts=(), max_tokens=NEW_TOKENS, temperature=0.0, top_k=0, top_p=1.0, seed=0
    )
    assert max(map(len, ids[1:])) + NEW_TOKENS <= model.params.context_length
    assert theirs["greedy"] == [only for (only,) in generate(model, ids[1:], params)]

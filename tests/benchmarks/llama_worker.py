"""llama.cpp, in a process of the peers' environment: continues prompts greedily, as one batch.

It reads requests as lines of JSON, and answers each with a line:

    {"prompts": [[1, 2], [3, 4]], "new_tokens": 8}    {"tokens": [[5, ...], [6, ...]]}
    {}                                                {"cpu_s": 1.5}   processor time so far

All numbers are float32: the weights in the GGUF, and the keys and values in the cache, which
llama.cpp would otherwise keep in float16.

Run: .venv-bench/bin/python -m tests.benchmarks.llama_worker GGUF SEQUENCES CONTEXT THREADS
"""

import ctypes
import json
import sys
import time
from importlib import import_module
from typing import Any

import numpy as np

F32 = 0  # GGML_TYPE_F32


class Batches:
    """A model and room for `sequences` of `context` tokens each."""

    def __init__(self, path: str, sequences: int, context: int, threads: int) -> None:
        import_module("llama_cpp._logger").set_verbose(False)
        self.lib: Any = import_module("llama_cpp.llama_cpp")
        self.model = self.lib.llama_model_load_from_file(
            path.encode(), self.lib.llama_model_default_params()
        )
        params = self.lib.llama_context_default_params()
        params.n_ctx = params.n_batch = params.n_ubatch = sequences * context
        params.n_seq_max = sequences
        params.n_threads = params.n_threads_batch = threads
        params.type_k = params.type_v = F32
        self.context = self.lib.llama_init_from_model(self.model, params)
        if not self.model or not self.context:
            sys.exit(f"llama.cpp does not load {path}")
        self.vocab_size = self.lib.llama_vocab_n_tokens(self.lib.llama_model_get_vocab(self.model))
        self.batch = self.lib.llama_batch_init(sequences * context, 0, 1)

    def extend(self, prompts: list[list[int]], new_tokens: int) -> list[list[int]]:
        """Return the `new_tokens` most likely tokens after each prompt."""
        self.lib.llama_memory_clear(self.lib.llama_get_memory(self.context), True)
        texts = [list(prompt) for prompt in prompts]
        begins = [0 for _ in texts]  # of what was not yet decoded
        for _ in range(new_tokens):
            logits = self.decode(texts, begins)
            begins = [len(text) for text in texts]
            for text, token in zip(texts, logits.argmax(axis=1).tolist(), strict=True):
                text.append(token)
        return [text[len(prompt) :] for text, prompt in zip(texts, prompts, strict=True)]

    def decode(self, texts: list[list[int]], begins: list[int]) -> np.ndarray:
        """Return the logits after each text: (texts, vocab)."""
        batch, count = self.batch, 0
        for sequence, (text, begin) in enumerate(zip(texts, begins, strict=True)):
            for position in range(begin, len(text)):
                batch.token[count] = text[position]
                batch.pos[count] = position
                batch.n_seq_id[count] = 1
                batch.seq_id[count][0] = sequence
                batch.logits[count] = position == len(text) - 1
                count += 1
        batch.n_tokens = count
        if status := self.lib.llama_decode(self.context, batch):
            sys.exit(f"llama_decode gave {status}")
        logits = ctypes.cast(
            self.lib.llama_get_logits(self.context), ctypes.POINTER(ctypes.c_float)
        )
        return np.ctypeslib.as_array(logits, shape=(len(texts), self.vocab_size))


def main() -> None:
    """Answer requests until stdin ends."""
    path, *numbers = sys.argv[1:]
    sequences, context, threads = map(int, numbers)
    batches = Batches(path, sequences, context, threads)
    for line in sys.stdin:
        request = json.loads(line)
        answer = (
            {"tokens": batches.extend(**request)} if request else {"cpu_s": time.process_time()}
        )
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()

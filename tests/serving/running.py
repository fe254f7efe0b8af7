"""A server in this process, for tests that look behind the API."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
import uvicorn
from openai import OpenAI

from lmlib.model import ModelParams, TransformerLM
from lmlib.sampling import SamplingParams
from lmlib.separator import SEPARATOR
from lmlib.serving.app import Served, Service, make_app
from lmlib.serving.engine import Limits
from lmlib.tokenizer import Tokenizer

# of sizes for CpuDecoder, which is batch-invariant; the weights are larger than a new model's, so
# that its tokens depend on all before them
SIZES = ModelParams(context_length=24, d_model=32, num_layers=2, num_heads=2, d_ff=32)
TOKENIZER = Tokenizer(
    {**{i: bytes([i]) for i in range(256)}, 256: b" a", 257: "日".encode()[:2], 258: b"ab"},
    [(b" ", b"a"), ("日".encode()[:1], "日".encode()[1:2]), (b"a", b"b")],
    [SEPARATOR],
)
SEPARATOR_ID = TOKENIZER.special_ids[SEPARATOR]
SAMPLING = SamplingParams(
    prompts=("a",), max_tokens=12, temperature=1.0, top_k=0, top_p=1.0, seed=5
)
STRIDE = 18


def make_model(seed: int = 1) -> TransformerLM:
    """Return a model whose next token depends on what comes before."""
    model = TransformerLM(SIZES, TOKENIZER.vocab_size, seed=seed)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 2:
                weight *= 3
    return model.eval()


MODEL = make_model()


@dataclass
class Server:
    """A running server."""

    address: str
    service: Service
    client: OpenAI

    def complete(self, **body: Any) -> Any:
        """Return the completion that the client gets."""
        extra = {name: body.pop(name) for name in list(body) if name in EXTRA}
        return self.client.completions.create(**{"model": "lm", **body}, extra_body=extra)

    def wait_until(self, condition: Any) -> None:
        """Return when a condition is true; the limit only ends a broken test."""
        deadline = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.01)


EXTRA = (
    "top_k",
    "min_p",
    "repetition_penalty",
    "allow_special",
    "add_separator",
    "detailed_logprobs",
)


@contextmanager
def serving(
    model: TransformerLM = MODEL,
    tokenizer: Tokenizer = TOKENIZER,
    limits: Limits = Limits(),  # noqa: B008  # frozen
    key: str | None = None,
    local: bool = True,
) -> Iterator[Server]:
    """Serve a model on a free port of loopback."""
    served = Served(model, tokenizer, "lm", 1, replace(SAMPLING), STRIDE, limits, key, local)
    app = make_app(served)
    config = uvicorn.Config(app, log_config=None, timeout_graceful_shutdown=60)
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        address = f"http://127.0.0.1:{listening.getsockname()[1]}"
        try:
            while not server.started:
                assert thread.is_alive()
                time.sleep(0.01)
            with OpenAI(base_url=f"{address}/v1", api_key=key or "none", max_retries=0) as client:
                yield Server(address, app.state.service, client)
        finally:
            server.should_exit = True
            thread.join()

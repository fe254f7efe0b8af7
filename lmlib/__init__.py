"""Language models from scratch: tokenizer, Transformer, optimizer, training, sampling."""

__version__ = "0.2.0"

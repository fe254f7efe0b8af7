"""Language models from scratch: tokenizer, Transformer, optimizer, training, sampling."""

__version__ = "1.0.0"

"""Language models from scratch: tokenizer, Transformer, optimizer, training, sampling."""

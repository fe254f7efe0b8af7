"""A server of OpenAI's completions API: the model behind HTTP, for several clients at once."""

"""What is fuzzed: a name -> "module:function:argument ..."."""

FILES = ("tokenizer", "gpt2", "model", "pretrained", "sharded", "tokens", "states", "corpus")
FILES += ("params", "journals")
TARGETS = {
    "encode": "tests.fuzz.tokenizer:encode",
    "learn": "tests.fuzz.tokenizer:learn",
    "cut": "tests.fuzz.tokenizer:cut",
    "sample": "tests.fuzz.tensors:sample",
    "adamw": "tests.fuzz.tensors:optimise",
    "copied-text": "tests.fuzz.tensors:copied_text",
    **{f"{name}-files": f"tests.fuzz.files:read:{name}" for name in FILES},
}

"""The text that stands between two documents, in corpora and as a special token."""

SEPARATOR = "<|endoftext|>"

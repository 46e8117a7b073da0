"""Text to tokens and back: tokenizer, chat format, incremental detokenisation, stop strings."""

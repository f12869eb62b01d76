"""Text on its way to ids and back: tokenizers, chat templates, the streaming detokenizer, what ends a reply."""

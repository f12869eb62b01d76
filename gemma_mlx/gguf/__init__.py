"""GGUF, the file format of llama.cpp: one file that holds a model's weights, its sizes, and its vocabulary.

What is read here comes out as the Hugging Face layout has it, so that nothing behind it knows the difference: metadata
as config.json and the files of the tokenizer, blocks of numbers as the packings that MLX computes with.
"""

"""A judgement as a table, as a line, and on a narrow terminal."""

from __future__ import annotations

from gemma_mlx.cli.render.judgement import _perplexity, drawn, told
from tests.test_quantize_card import FOUND, VECTORS


def test_all_of_it() -> None:
    lines = drawn(FOUND, None).splitlines()
    assert lines[0].split() == ["from", "gemma-3-4b-it"]
    assert "layers    error 0.1 after 0, 0.2 after 1" in lines
    assert lines[-2].split("  ")[0] == "texts"
    assert lines[-1].split() == ["all", "8,839", "0.1", "1.1", "58.5%", "13.5", "12.34"]


def test_a_few_of_many_layers() -> None:
    many = drawn(FOUND | {"layers": [index / 100 for index in range(62)]}, None)
    (line,) = (line for line in many.splitlines() if line.startswith("layers"))
    assert line.count("after") == 8
    assert line.endswith("0.61 after 61")
    assert "layers" not in drawn(FOUND | {"layers": []}, None)


def test_it_fits_40_columns() -> None:
    for judgement in (FOUND, VECTORS):
        assert max(map(len, drawn(judgement, 40).splitlines())) <= 40


def test_in_a_line() -> None:
    assert told(FOUND) == (
        "KL 0.1 from gemma-3-4b-it, 1.1 at the 99.9th percentile; the same likeliest token in 58.5% of 8,839; "
        "perplexity 12.34 -> 13.5"
    )
    assert told(VECTORS) == (
        "vectors 0.012 (1 - cosine) from those of gemma-3-4b-it, 0.034 at most; of 47 texts, the nearest other is the "
        "same for 95.0%"
    )


def test_large_perplexities_have_no_exponents() -> None:
    assert [_perplexity(value) for value in (1.5, 8255.4, 9999.4, 9999.6, 29_041.7)] == [
        "1.5", "8,255", "9,999", "10,000", "29,042",
    ]  # fmt: skip


def test_vectors() -> None:
    assert drawn(VECTORS, None).splitlines()[-1].split() == ["all", "47", "0.012", "0.034", "95.0%"]

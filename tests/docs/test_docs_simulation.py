"""The program of docs/simulation.md runs and does what the page says."""

from __future__ import annotations


def test_the_pages_program_divides_data_and_both_loops_give_the_same_bits(run_page):
    lines = run_page("simulation.md", 5).splitlines()
    assert lines[0] == "['lyon', 'paris']"
    iid, dirichlet, shards, quantity = (line.split() for line in lines[1:5])
    assert iid == ["IID", "300", "300", "3"]
    assert int(dirichlet[1]) < 200
    assert int(dirichlet[2]) > 400
    assert shards[0] == "Shards"
    assert int(shards[3]) < 3
    assert int(quantity[2]) > 5 * int(quantity[1])
    assert lines[5] == "['brest', 'lille', 'nice']"
    assert lines.count("True") == 2
    assert lines[-1] == "True"
    counts = next(line for line in reversed(lines) if line.startswith("["))
    first, second = (int(count) for count in counts.strip("[]").split(", "))
    assert 50 <= first < 100
    assert 50 <= second < 100
    said = [line for line in lines if line.startswith("Line trains")]
    assert set(said) <= {
        "Line trains by the lean step: its training is nothing but steps of SGD.",
        "Line trains with stacked parameters, several nodes at once.",
    }

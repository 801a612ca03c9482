import pytest

from edgec.report.units import count, many, seconds, size


@pytest.mark.parametrize(("number", "text"), [(0, "0"), (9999, "9,999"), (10_000, "10 k"), (999_499, "999 k"),
                                              (999_600, "1 M"), (1_820_000_000, "1.82 G"), (5e15, "5e+03 T")])
def test_count_has_three_digits_and_a_unit(number, text):
    assert count(number) == text


@pytest.mark.parametrize(("number", "text"), [(0, "0 B"), (999, "999 B"), (1024, "1 KiB"), (1023 * 1024, "0.999 MiB"),
                                              (46_800_000, "44.6 MiB")])
def test_size_has_a_binary_unit(number, text):
    assert size(number) == text


@pytest.mark.parametrize(("number", "text"), [(1.23e-5, "12.3 us"), (0.00456, "4.56 ms"), (7.891, "7.89 s"),
                                              (0.9999, "1 s"), (75.2, "75 s")])
def test_seconds_has_the_unit_that_fits(number, text):
    assert seconds(number) == text


def test_many_agrees_in_number():
    assert [many(n, "node") for n in (0, 1, 2)] == ["0 nodes", "1 node", "2 nodes"]

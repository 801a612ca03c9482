import pytest

from edgec.report.units import count, seconds, share, size


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


@pytest.mark.parametrize(("part", "text"), [(0, "0 %"), (1, "100 %"), (0.9996, "99 %"), (0.996, "99 %"), (0.25, "25 %"),
                                            (0.0996, "10 %"), (0.034, "3.4 %"), (0.00042, "0.042 %"), (1.25, "125 %")])
def test_share_is_in_per_cent_and_whole_only_if_it_is(part, text):
    assert share(part) == text

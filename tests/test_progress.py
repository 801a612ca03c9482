from edgec.progress import many


def test_many_agrees_in_number():
    assert [many(n, "node") for n in (0, 1, 2)] == ["0 nodes", "1 node", "2 nodes"]
    assert [many(n, "class", "classes") for n in (1, 2)] == ["1 class", "2 classes"]

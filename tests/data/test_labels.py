"""Labels from tables, boxes and masks."""

from __future__ import annotations

import numpy as np
import pytest

from edgec.data.labels import check_complete, number_classes, read_labels
from edgec.errors import UserError


def written(tmp_path, name: str, text: str):
    (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path / name


@pytest.mark.parametrize("text", [
    "file,class_index,wnid,name\na.jpg,7,n1,x\nb.jpg,2,n2,y\n", "wnid,label,filename\nn1,7,a.jpg\nn2,2,b.jpg\n",
    "a.jpg,7\nb.jpg,2\n", "\ufefffile,label\na.jpg, 7\nb.jpg,2\n\n"])
def test_csv_columns_are_found_by_their_heads(tmp_path, text):
    labels = read_labels(written(tmp_path, "l.csv", text))
    assert (labels.find("a.jpg"), labels.find("deep/b.jpg"), labels.find("c.jpg")) == (7, 2, None)


def test_words_are_numbered_in_order(tmp_path):
    labels = read_labels(written(tmp_path, "l.csv", "file,label\na,dog\nb,cat\nc,dog\n"))
    assert ([labels.find(n) for n in "abc"], labels.classes) == ([1, 0, 1], ("cat", "dog"))
    assert number_classes(["3", " 1"]) == ([3, 1], ())


@pytest.mark.parametrize(("name", "text", "part"), [
    ("l.csv", "", "empty"), ("l.csv", "a,b,c\n1,2,3\n", "columns are"), ("l.csv", "file,label\na\n", "row 1"),
    ("l.csv", 'file,label\n"a,1\n', "no CSV"), ("l.json", "[1]", "no table"), ("l.json", "{", "no JSON"),
    ("l.json", '{"a": [[1, 2]]}', "cannot read a label"), ("l.json", '{"a": "cat"}', "cannot read a label"),
    ("l.json", '{"a": [[0, 1, 2, 3, NaN]]}', "cannot read a label"), ("l.txt", "a 1", "not known")])
def test_damaged_labels_are_explained(tmp_path, name, text, part):
    with pytest.raises(UserError, match=part):
        read_labels(written(tmp_path, name, text))


@pytest.mark.parametrize("text", ['{"a.jpg": [[1, 0, 2, 3, 4.5]], "b.jpg": []}',
                                  '{"classes": ["x", "y"], "boxes": {"a.jpg": [[1, 0, 2, 3, 4.5]], "b.jpg": []}}'])
def test_boxes_have_five_columns(tmp_path, text):
    labels = read_labels(written(tmp_path, "l.json", text))
    assert labels.find("a.jpg").tolist() == [[1, 0, 2, 3, 4.5]]
    assert labels.find("b.jpg").shape == (0, 5)


def test_boxes_without_class_get_class_zero(tmp_path):
    assert read_labels(written(tmp_path, "l.json", '{"a": [[5, 6, 7, 8]]}')).find("a").tolist() == [[0, 5, 6, 7, 8]]


def test_masks_are_found_by_stem(tmp_path):
    image = pytest.importorskip("PIL.Image")
    mask = np.zeros((4, 6), np.uint8)
    mask[1, 2:] = 255
    (tmp_path / "masks").mkdir()
    image.fromarray(mask).save(tmp_path / "masks/a.png")
    labels = read_labels(tmp_path / "masks")
    assert np.array_equal(labels.find("photos/a.jpg"), mask > 0)
    assert labels.find("b.jpg") is None
    with pytest.raises(UserError, match=r"1 samples have no label: b\.jpg"):
        check_complete(labels, ["a.jpg", "b.jpg"], "photos")
